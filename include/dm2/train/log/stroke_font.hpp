/// @file
/// A typeface of lines and arcs: charts need no font files.
#pragma once

#include <dm2/core/compiler.hpp>

#include <array>
#include <charconv>
#include <cstddef>
#include <string_view>

namespace dm2::detail {

/// The letters ' ' to '~'. Each is a width and what is drawn, on a grid where the baseline is at 0, small letters reach
/// up to 14, capitals and digits to 20, and descenders down to -6:
///   M x y             the pen is put down at (x, y)
///   L x y             it draws a line to (x, y)
///   A x y w h a b     it draws a line to, and then follows, the ellipse about (x, y) of half axes w, h from angle a to
///                     b (degrees, counter-clockwise from the right)
///   O x y w h         a whole ellipse, for itself
inline constexpr std::array<std::string_view, 95> glyphs{
    "4",                                                                                                    // space
    "1 M 0.5 20 L 0.5 6 M 0.5 0 L 0.5 0.5",                                                                 // !
    "5 M 0.5 20 L 0.5 15 M 4.5 20 L 4.5 15",                                                                // "
    "14 M 5 19 L 2 1 M 12 19 L 9 1 M 0.5 13 L 14 13 M 0 7 L 13.5 7",                                        // #
    "12 A 6 14.3 5.4 4.3 30 270 A 6 5 6 5 90 -150 M 6 22 L 6 -3",                                           // $
    "18 O 4 15.5 4 4.5 O 14 4.5 4 4.5 M 14.5 20 L 3.5 0",                                                   // %
    "15 M 15 0 L 3.4 13.2 A 6 16 3.6 4 220 -60 L 3 9.6 A 6 5.2 6 5.2 120 310 L 13.6 9",                     // &
    "1 M 0.5 20 L 0.5 15",                                                                                  // '
    "5 A 8.5 8.5 8.5 13.5 125 235",                                                                         // (
    "5 A -3.5 8.5 8.5 13.5 55 -55",                                                                         // )
    "9 M 4.5 20 L 4.5 11 M 0.6 17.8 L 8.4 13.2 M 8.4 17.8 L 0.6 13.2",                                      // *
    "11 M 0 8.5 L 11 8.5 M 5.5 3 L 5.5 14",                                                                 // +
    "1 M 0.9 0.5 L -0.5 -3.5",                                                                              // ,
    "7 M 0 7.5 L 7 7.5",                                                                                    // -
    "1 M 0.5 0 L 0.5 0.5",                                                                                  // .
    "8 M 0 -3 L 8 21",                                                                                      // /
    "11 O 5.5 10 5.5 10",                                                                                   // 0
    "11 M 2 16 L 6.5 20 L 6.5 0",                                                                           // 1
    "11 A 5.5 14.7 5 5.3 165 -32 L 0.3 0 L 11 0",                                                           // 2
    "11 A 5.3 15.3 4.7 4.7 155 -90 M 4 10.6 L 5.3 10.6 A 5.3 5.3 5.7 5.3 90 -155",                          // 3
    "11.5 M 8.5 0 L 8.5 20 L 0 6 L 11.5 6",                                                                 // 4
    "11 M 10 20 L 2 20 L 1.2 10.9 A 5.2 6.4 5.8 6.4 135 -148",                                              // 5
    "11 O 5.5 6.3 5.5 6.3 M 8.3 20 L 1.29 10.35",                                                           // 6
    "11 M 0.2 20 L 11 20 L 4 0",                                                                            // 7
    "11 O 5.5 15.3 4.6 4.7 O 5.5 5.3 5.5 5.3",                                                              // 8
    "11 O 5.5 13.7 5.5 6.3 M 2.7 0 L 9.71 9.65",                                                            // 9
    "1 M 0.5 12 L 0.5 12.5 M 0.5 0 L 0.5 0.5",                                                              // :
    "1 M 0.5 12 L 0.5 12.5 M 0.9 0.5 L -0.5 -3.5",                                                          // ;
    "10 M 10 14 L 0 8.5 L 10 3",                                                                            // <
    "11 M 0 11 L 11 11 M 0 6 L 11 6",                                                                       // =
    "10 M 0 14 L 10 8.5 L 0 3",                                                                             // >
    "9 A 4.5 15.5 4.5 4.5 170 -45 L 4.5 9.5 L 4.5 6 M 4.5 0 L 4.5 0.5",                                     // ?
    "20 O 10 8 4 4.5 M 14 12 L 14 7 A 17 7 3 3.5 180 360 A 10 8 10 11 5 310",                               // @
    "16 M 0 0 L 8 20 L 16 0 M 2.8 7 L 13.2 7",                                                              // A
    "12.5 M 0 10.6 L 0 20 L 6 20 A 6 15.3 5.2 4.7 90 -90 L 0 10.6 L 0 0 L 6.5 0 A 6.8 5.3 5.7 5.3 -90 90",  // B
    "16.5 A 9.5 10 9.5 10 45 315",                                                                          // C
    "15 M 0 0 L 0 20 L 5 20 A 5 10 10 10 90 -90 L 0 0",                                                     // D
    "11 M 11 20 L 0 20 L 0 0 L 11 0 M 0 10.5 L 9.5 10.5",                                                   // E
    "10.5 M 10.5 20 L 0 20 L 0 0 M 0 10 L 9 10",                                                            // F
    "18.5 A 9.5 10 9.5 10 45 355 L 18.5 9.3 L 11 9.3",                                                      // G
    "14 M 0 0 L 0 20 M 14 0 L 14 20 M 0 10.5 L 14 10.5",                                                    // H
    "1 M 0.5 0 L 0.5 20",                                                                                   // I
    "8 M 8 20 L 8 5 A 4 5 4 5 0 -160",                                                                      // J
    "13 M 0 0 L 0 20 M 12 20 L 0 7.2 M 4.2 11.6 L 13 0",                                                    // K
    "10 M 0 20 L 0 0 L 10 0",                                                                               // L
    "17 M 0 0 L 0 20 L 8.5 5 L 17 20 L 17 0",                                                               // M
    "14 M 0 0 L 0 20 L 14 0 L 14 20",                                                                       // N
    "19 O 9.5 10 9.5 10",                                                                                   // O
    "12.2 M 0 0 L 0 20 L 6.5 20 A 6.5 14.6 5.7 5.4 90 -90 L 0 9.2",                                         // P
    "19 O 9.5 10 9.5 10 M 12 5 L 18.5 -1.5",                                                                // Q
    "12.5 M 0 0 L 0 20 L 6.5 20 A 6.5 14.6 5.7 5.4 90 -90 L 0 9.2 M 6.5 9.2 L 12.5 0",                      // R
    "12 A 6 15.2 5.4 4.8 30 270 A 6 5.2 6 5.2 90 -150",                                                     // S
    "14 M 0 20 L 14 20 M 7 20 L 7 0",                                                                       // T
    "13 M 0 20 L 0 6.5 A 6.5 6.5 6.5 6.5 180 360 L 13 20",                                                  // U
    "15 M 0 20 L 7.5 0 L 15 20",                                                                            // V
    "22 M 0 20 L 5.5 0 L 11 19 L 16.5 0 L 22 20",                                                           // W
    "13 M 0 20 L 13 0 M 13 20 L 0 0",                                                                       // X
    "13.6 M 0 20 L 6.8 9.5 L 13.6 20 M 6.8 9.5 L 6.8 0",                                                    // Y
    "13 M 0.5 20 L 12.5 20 L 0 0 L 13 0",                                                                   // Z
    "4.5 M 4.5 22 L 0 22 L 0 -4 L 4.5 -4",                                                                  // [
    "8 M 0 21 L 8 -3",                                                                                      // backslash
    "4.5 M 0 22 L 4.5 22 L 4.5 -4 L 0 -4",                                                                  // ]
    "9 M 0 14 L 4.5 20 L 9 14",                                                                             // ^
    "10 M 0 -3 L 10 -3",                                                                                    // _
    "3 M 0 20 L 3 16.5",                                                                                    // `
    "11 O 5.5 7 5.5 7 M 11 14 L 11 0",                                                                      // a
    "11 O 5.5 7 5.5 7 M 0 21 L 0 0",                                                                        // b
    "9.8 A 5.8 7 5.8 7 48 312",                                                                             // c
    "11 O 5.5 7 5.5 7 M 11 21 L 11 0",                                                                      // d
    "11.4 M 0.2 7.2 L 11.4 7.2 A 5.7 7 5.7 7 2 316",                                                        // e
    "6.5 M 2.5 0 L 2.5 17 A 6.3 17 3.8 4 180 85 M 0 14 L 6.5 14",                                           // f
    "11 O 5.5 7 5.5 7 M 11 14 L 11 -1 A 5.5 -1 5.5 5 0 -150",                                               // g
    "10 M 0 21 L 0 0 M 0 8.5 A 5 8.5 5 5.5 180 0 L 10 0",                                                   // h
    "1 M 0.5 14 L 0.5 0 M 0.5 19.5 L 0.5 20",                                                               // i
    "3 M 2.5 14 L 2.5 -2.5 A -1 -2.5 3.5 3.5 0 -80 M 2.5 19.5 L 2.5 20",                                    // j
    "9.5 M 0 21 L 0 0 M 9 14 L 0 5 M 3.4 8.4 L 9.5 0",                                                      // k
    "3 M 0.5 21 L 0.5 3.5 A 3.5 3.5 3 3.5 180 275",                                                         // l
    "16 M 0 14 L 0 0 M 0 9.5 A 4 9.5 4 4.5 180 0 L 8 0 M 8 9.5 A 12 9.5 4 4.5 180 0 L 16 0",                // m
    "10 M 0 14 L 0 0 M 0 8.5 A 5 8.5 5 5.5 180 0 L 10 0",                                                   // n
    "11.6 O 5.8 7 5.8 7",                                                                                   // o
    "11 O 5.5 7 5.5 7 M 0 14 L 0 -6",                                                                       // p
    "11 O 5.5 7 5.5 7 M 11 14 L 11 -6",                                                                     // q
    "5.5 M 0 14 L 0 0 M 0 8.5 A 5 8.5 5 5.5 180 80",                                                        // r
    "9 A 4.5 10.55 4 3.45 30 270 A 4.5 3.55 4.5 3.55 90 -152",                                              // s
    "7 M 2.8 19 L 2.8 4 A 6.6 4 3.8 4 180 275 M 0 14 L 7 14",                                               // t
    "10 M 0 14 L 0 5.5 A 5 5.5 5 5.5 180 360 M 10 14 L 10 0",                                               // u
    "10.4 M 0 14 L 5.2 0 L 10.4 14",                                                                        // v
    "16 M 0 14 L 4 0 L 8 13 L 12 0 L 16 14",                                                                // w
    "10 M 0 14 L 10 0 M 10 14 L 0 0",                                                                       // x
    "10.6 M 0 14 L 5.3 0.6 M 10.6 14 L 3 -6",                                                               // y
    "9.8 M 0.3 14 L 9.5 14 L 0 0 L 9.8 0",                                                                  // z
    "6 A 6 18 3.5 4 90 180 L 2.5 12 A -1 12 3.5 3.5 0 -90 A -1 5 3.5 3.5 90 0 L 2.5 -1 A 6 -1 3.5 4 180 270",  // {
    "1 M 0.5 22 L 0.5 -4",                                                                                     // |
    "6 A 0 18 3.5 4 90 0 L 3.5 12 A 7 12 3.5 3.5 180 270 A 7 5 3.5 3.5 90 180 L 3.5 -1 A 0 -1 3.5 4 0 -90",    // }
    "12 M 0 7 A 3 7 3 3 180 40 L 6.7 7.2 A 9 9 3 3 220 360",                                                   // ~
};

/// Splits a glyph's description into words and numbers.
class glyph_reader {
 public:
  explicit glyph_reader(std::string_view text) : rest_{text} {}
  /// The next command; '\0' at the end.
  char command() {
    skip();
    if (rest_.empty()) return '\0';
    char const c = rest_.front();
    rest_.remove_prefix(1);
    return c;
  }
  double number() {
    skip();
    double value = 0;
    auto const read = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    rest_.remove_prefix(std::size_t(read.ptr - rest_.data()));
    return value;
  }

 private:
  void skip() {
    while (!rest_.empty() && rest_.front() == ' ') rest_.remove_prefix(1);
  }
  std::string_view rest_;
};

}  // namespace dm2::detail
