# shellcheck shell=bash
# Sourced by ./demo, ./test, scripts/gpu and .ci/run: what a machine needs, how it is installed, how dm2 is built.

# Debian 12 and newer, Ubuntu 22.04 and newer.
build_packages=(cmake ninja-build libeigen3-dev nlohmann-json3-dev libjpeg-dev libpng-dev libcli11-dev doctest-dev
                libbenchmark-dev libstb-dev)

say() { printf '\n== %s\n' "$*"; }

# The first C++ compiler that is new enough (g++ 12 or clang 14), or nothing. $CXX comes first.
find_compiler() {
  local name major
  for name in ${CXX:+"$CXX"} g++ g++-12 g++-13 g++-14 clang++ clang++-14 clang++-15 clang++-16 clang++-17 clang++-18; do
    command -v "$name" > /dev/null 2>&1 || continue
    major=$("$name" -dumpversion 2> /dev/null | cut -d. -f1)
    case $("$name" --version 2> /dev/null) in
      *clang*) [ "${major:-0}" -ge 14 ] || continue ;;
      *) [ "${major:-0}" -ge 12 ] || continue ;;
    esac
    echo "$name"
    return
  done
}

# The package with a compiler that is new enough. Ubuntu 22.04's g++ is 11.
compiler_package() {
  case $(. /etc/os-release 2> /dev/null && echo "${ID:-} ${VERSION_ID:-}") in
    "ubuntu 22."*) echo g++-12 ;;
    *) echo g++ ;;
  esac
}

# Those of the given packages that are not installed.
missing_packages() {
  local name
  for name in "$@"; do
    case $(dpkg-query -W -f='${db:Status-Abbrev}' "$name" 2> /dev/null) in
      ii*) ;;
      *) echo "$name" ;;
    esac
  done
}

# as_root COMMAND...: by right or by sudo, without a question.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo -n "$@"
  fi
}

apt() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -q -o DPkg::Lock::Timeout=300 "$@" < /dev/null
}

# install PACKAGE...: what is missing, where that is possible. Where it is not, says so and goes on: CMake may find a
# library that no package brought, or fetch it.
install() {
  if ! command -v apt-get > /dev/null 2>&1; then
    say "This system has no apt-get. Needed, under their Debian names: $(compiler_package) $*"
    return
  fi
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ] && ! sudo -n true 2> /dev/null; then
    say "Packages are missing, and this user may not install them without a password. Please run:"
    echo "sudo apt-get install ${missing[*]}"
    return
  fi
  say "Installing ${missing[*]}"
  apt update || say "apt-get update failed; going on with the lists that are here"
  apt install -y --no-install-recommends "${missing[@]}" || say "Not everything could be installed; going on"
}

# Everything that a build needs. Sets CXX.
prepare_machine() {
  local compiler
  compiler=$(find_compiler)
  if [ -z "$compiler" ]; then
    install "$(compiler_package)" "${build_packages[@]}"
    compiler=$(find_compiler)
  else
    install "${build_packages[@]}"
  fi
  if [ -z "$compiler" ]; then
    say "No C++ compiler that is new enough was found: g++ 12 or clang 14 (package $(compiler_package))" >&2
    exit 1
  fi
  if ! command -v cmake > /dev/null 2>&1; then
    say "cmake was not found (package cmake)" >&2
    exit 1
  fi
  export CXX=$compiler
  use_ccache
}

# How many jobs run at a time: DM2_JOBS, or one a processor.
jobs_at_once() { echo "${DM2_JOBS:-$(nproc)}"; }

# That many, and 2.5 GiB for each: a unit of several files takes about that much to compile.
build_jobs() {
  local cores memory
  cores=$(jobs_at_once)
  memory=$(awk '/^MemAvailable:/ { print int($2 / 2621440) }' /proc/meminfo)
  [ "${memory:-1}" -ge 1 ] || memory=1
  echo $((cores < memory ? cores : memory))
}

# Compilers behind ccache, where it is installed and its folder can be written (CCACHE_DISABLE=1: not): a second clean
# checkout at the same place takes what the first one compiled. -march=native is another thing on another processor, which
# ccache does not see: the namespace keeps them apart.
use_ccache() {
  local folder features
  [ -z "${CCACHE_DISABLE:-}" ] && folder=$(ccache --get-config cache_dir 2> /dev/null) || return 0
  mkdir -p "$folder" 2> /dev/null && [ -w "$folder" ] || return 0
  features=$({ grep -m 1 -E '^(flags|Features)' /proc/cpuinfo; uname -m; } 2> /dev/null | cksum | cut -d ' ' -f 1)
  export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=1 CCACHE_NAMESPACE=${CCACHE_NAMESPACE:-dm2-$features}
  export CCACHE_DEPEND=1  # a compiler's own list of headers, and no second pass of its preprocessor
  export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}
  export CMAKE_C_COMPILER_LAUNCHER=${CMAKE_C_COMPILER_LAUNCHER-ccache}
  export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
  export CMAKE_CUDA_COMPILER_LAUNCHER=${CMAKE_CUDA_COMPILER_LAUNCHER-ccache}
}

# build FOLDER TARGETS [CMAKE_ARGUMENT...]: configures and builds.
build() {
  local folder=$1 targets generator=() missing
  read -ra targets <<< "$2"
  shift 2
  if [ ! -f "$folder/CMakeCache.txt" ] && command -v ninja > /dev/null 2>&1; then generator=(-G Ninja); fi
  say "Building ${targets[*]} in $folder"
  if ! cmake -S . -B "$folder" "${generator[@]}" "$@"; then
    mapfile -t missing < <(missing_packages "${build_packages[@]}")
    [ ${#missing[@]} -eq 0 ] || say "The packages that are still missing: ${missing[*]}"
    exit 1
  fi
  cmake --build "$folder" --target "${targets[@]}" --parallel "$(build_jobs)"
}
