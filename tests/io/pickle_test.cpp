#include <dm2/io/pickle.hpp>
#include <dm2/io/pickle/json.hpp>

#include "io/make_torch.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <limits>
#include <span>
#include <string>

using dm2::pickle_kind;
using namespace dm2::test;
using namespace std::string_literals;

namespace {
dm2::pickle_document read(std::string const& bytes) { return dm2::read_pickle(std::as_bytes(std::span{bytes}), "f"); }
nlohmann::json json(std::string const& body) {
  std::string const bytes = proto + body + ".";
  auto const document = read(bytes);
  return dm2::pickle_as_json(document.root(), "f", 8 * bytes.size() + 4096);
}
std::string refused(std::string const& body) {
  return refusal("f", [&] { (void)read(proto + body + "."); });
}
}  // namespace

TEST_CASE("pickle: plain values of every protocol") {
  CHECK(json("N") == nullptr);
  CHECK(json("(\x88\x89t") == nlohmann::json{true, false});
  CHECK(json("(J\xFE\xFF\xFF\xFF"
             "K\xFF"
             "M\x01\x02t") == nlohmann::json{-2, 255, 513});
  CHECK(json("(" + std::string{"\x8a\0", 2} +
             "\x8a\x01\xFF"
             "\x8a\x02\xFF\x00t"s) == nlohmann::json{0, -1, 255});
  CHECK(json(integer(std::numeric_limits<std::int64_t>::min())) == std::numeric_limits<std::int64_t>::min());
  CHECK(json(std::string{"G\x3F\xB9\x99\x99\x99\x99\x99\x9A", 9}) == 0.1);
  CHECK(json("(" + text("four") +
             "\x8c\x03two"
             "U\x03old" +
             "\x8d" + raw<std::uint64_t>(3) + "bigt") == nlohmann::json{"four", "two", "old", "big"});
  CHECK(json("K\1\x85") == nlohmann::json::array({1}));
  CHECK(json("K\1K\2K\3\x87") == nlohmann::json{1, 2, 3});
  CHECK(json("]K\1a(K\2K\3e") == nlohmann::json{1, 2, 3});
  CHECK(json("\x8f(K\1\x90") == nlohmann::json::array({1}));
  CHECK(json("}" + text("a") + "K\1s(" + text("b") + "]u") == nlohmann::json{{"a", 1}, {"b", nlohmann::json::array()}});
  CHECK(json("(" + text("a") + "K\1d") == nlohmann::json{{"a", 1}});
  CHECK(json("}K\7K\1s") == nlohmann::json{{"7", 1}});
}

TEST_CASE("pickle: the memo, frames and pops") {
  CHECK(json("(" + text("x") + "q\0"s + "h\0r\1\0\0\0j\1\0\0\0t"s) == nlohmann::json{"x", "x", "x"});
  CHECK(json("\x95" + raw<std::uint64_t>(3) +
             "K\1\x94K\2"
             "0") == 1);
  CHECK(json("K\1(K\2K\3"
             "1") == 1);
  CHECK(json("}q\1" + text("a") + "K\1s0h\1") == nlohmann::json{{"a", 1}});
}

TEST_CASE("pickle: the known classes become plain data") {
  auto const pair = text("a") + "K\1s";
  CHECK(json(global("collections", "OrderedDict") + ")R" + pair + "}" + text("_metadata") + "K\5sb") ==
        nlohmann::json{{"a", 1}});
  CHECK(json(global("collections", "defaultdict") + global("builtins", "list") + "\x85R" + pair) ==
        nlohmann::json{{"a", 1}});
  CHECK(json(global("pytorch_lightning.utilities.parsing", "AttributeDict") + ")\x81" + pair) ==
        nlohmann::json{{"a", 1}});
  CHECK(json(global("argparse", "Namespace") + ")\x81}" + pair + "b") == nlohmann::json{{"a", 1}});
  CHECK(json(text("torch") + text("float32") + "\x93") == "torch.float32");
  CHECK(json(global("torch", "device") + text("cuda") + "K\0\x86R"s) == "cuda");
}

TEST_CASE("pickle: objects of other globals are carried along by name, never made") {
  auto const path = global("pathlib", "PosixPath") + text("/tmp") + "\x85R";
  std::string const bytes = proto + path + ".";
  auto const document = read(bytes);
  CHECK(document.root().is(pickle_kind::refused));
  CHECK(document.root().describe() == "an object of the refused global pathlib PosixPath");
  CHECK(json("}" + text("k") + path + "s") == nlohmann::json{{"k", {{"refused", "pathlib PosixPath"}}}});
  auto const made = global("os", "system") + text("echo") + "\x85R";
  for (std::string const& more :
       {std::string{""}, std::string{"}b"}, "(" + text("k") + "K\1u", std::string{"(K\1K\2e"}, std::string{")R"}})
    CHECK(json(made + more) == nlohmann::json{{"refused", "os system"}});
  CHECK(json(global("m", "c") + ")}\x92") == nlohmann::json{{"refused", "m c"}});
  // names that are no text: JSON holds them, in values and in keys
  CHECK(json("}" + text("k") + global("os", "sy\x8Est\x1B") + "s") ==
        nlohmann::json{{"k", {{"refused", "os sy\\x8Est?"}}}});
  auto const key = json("}" + global("os", "sy\x8Est") + "K\1s");
  CHECK(key == nlohmann::json{{"(an object of the refused global os sy\\x8Est)", 1}});
  CHECK_NOTHROW((void)key.dump());
  // an OrderedDict of pairs would have to be copied
  CHECK(json(global("collections", "OrderedDict") + "]\x85R") ==
        nlohmann::json{{"refused", "collections OrderedDict"}});
}

TEST_CASE("pickle: other opcodes end the reading, by name") {
  CHECK(refused("(i"
                "os\nsystem\n") == "pickle, byte 4: opcode 105 (INST) is refused");
  CHECK(contains(refused("I1\n"), "opcode 73 (INT)"));
  CHECK(contains(refused("P1\n"), "opcode 80 (PERSID)"));
  CHECK(contains(refused("\x82\x01"), "opcode 130 (EXT1)"));
  CHECK(contains(refused("K\1"
                         "2"),
                 "opcode 50 (DUP)"));
  CHECK(contains(refused("\xFF"), "opcode 255 (unknown)"));
  CHECK(contains(refused("\x80\x06N"), "protocol 6 is refused"));
}

TEST_CASE("pickle: damaged programs are refused") {
  for (char const* body : {"",
                           "0",
                           "t",
                           "e",
                           "K\1e",
                           "a",
                           "]a",
                           "s",
                           "}K\1s",
                           "(s",
                           "]K\1s",
                           "}K\1a",
                           "K\1K\2",
                           "(",
                           "N(",
                           "R",
                           ")R",
                           "N)R",
                           "K\1\x85R",
                           "\x85",
                           "(K\1\x86",
                           "Q",
                           "b",
                           "h\1",
                           "}(K\1u",
                           "(K\1d",
                           "q\1",
                           "(0",
                           "K\1(1"
                           "1",
                           "c",
                           "cabc"})
    CHECK_MESSAGE(contains(refused(body), "pickle, byte "), std::string{body});
  CHECK(contains(refusal("f", [] { (void)read(proto); }), "truncated"));
  CHECK(contains(refused("Nr\xFF\xFF\xFF\xFF"), "out of order"));
  CHECK(contains(refused("X\xFF\xFF\xFF\x7F"), "pass its end"));
  CHECK(contains(refused("\x8d\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), "pass its end"));
  CHECK(contains(refused("ctorch\n"), "a name has no end"));
}

TEST_CASE("pickle: values that contain themselves or grow exponentially are no JSON") {
  std::string doubling = "]q\1";
  for (char level = 2; level < 60; ++level)
    doubling += "0](" + std::string{"h"} + char(level - 1) + "h" + char(level - 1) + "eq" + level;
  CHECK(contains(refusal("f", [&] { json(doubling); }), "the values would make JSON many times the file's size"));
  CHECK(contains(json("]q\1h\1a").dump(), R"({"refused":"values nested more than 64 deep"})"));
  CHECK(json("}N]s") == nlohmann::json{{"(None)", nlohmann::json::array()}});
  CHECK(json(text("\xFF")) == nlohmann::json{{"refused", "text that is not UTF-8"}});
}
