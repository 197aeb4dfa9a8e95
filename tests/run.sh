#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Builds and runs every test. Needs root (it installs packages, and the `mount` tests make mounts) and /dev/fuse.
#
#   sudo tests/run.sh                    everything: tests, the same under sanitizers, clang's checks, fuzzing
#   sudo tests/run.sh --quick            only the tests, in the debug build
#   sudo tests/run.sh --label unit       as --quick, only tests with this label (unit: no root, no FUSE; mount: both)
#   sudo tests/run.sh -R wim_reader      as --quick, only tests whose name matches (-R contract: the contract's table)
#   sudo tests/run.sh --only asan        one stage: debug, lint, asan, tsan or fuzz (lint needs a debug build)
#
# Environment: DISMD_FIXTURES (directory of unpacked foreign images), FUZZ_SECONDS (60; a target's time, those of
# whole formats; smaller ones a third), JOBS (2),
# BUILD_ROOT (build; where build directories go).
#
# The last line is the sum of everything: "N passed, N failed".

set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${BUILD_ROOT:-$root/build}
jobs=${JOBS:-$(nproc)}
fuzz_seconds=${FUZZ_SECONDS:-60}

quick=
only=
ctest_options=()
usage() { sed -n '5,17s/^# \{0,1\}//p' "$0"; }
while (($#)); do
  case $1 in
    --quick) quick=1 ;;
    --label) quick=1; ctest_options+=(-L "^${2:?--label needs a label}\$"); shift ;;
    --only) only=${2:?--only needs a stage}; shift ;;
    -R) quick=1; ctest_options+=(-R "${2:?-R needs a regular expression}"); shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
((EUID == 0)) || { echo "tests/run.sh: run me as root: sudo tests/run.sh" >&2; exit 1; }

passed=0
failed=0
failures=()
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); failures+=("$*"); echo "FAILED: $*" >&2; }
headline() { printf '\n==> %s (%d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

# Every test works below this directory, and every process started from here carries this name in its environment:
# that is how the end of the run finds what a test has left behind.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/dismd-tests.XXXXXX")
chmod 755 "$scratch"
export TMPDIR=$scratch DISMD_TEST_RUN=${scratch##*/}
source "$root/tests/leftovers.sh"

finish() {
  trap - EXIT INT TERM HUP
  # Before the processes are ended: what is still there now is what the tests have left.
  local left
  left=$(leftovers "$scratch" "$DISMD_TEST_RUN")
  remove_leftovers "$scratch" "$DISMD_TEST_RUN"
  rm -rf --one-file-system "$scratch"
  if [[ ${1:-} == interrupted ]]; then
    echo "tests/run.sh: interrupted; everything started here was ended" >&2
    exit 130
  fi
  if [[ -n $left ]]; then fail "left behind by the tests:"$'\n'"$left"; else pass; fi
  headline "Done"
  ((failed == 0)) || printf '  failed: %s\n' "${failures[@]}"
  echo "$passed passed, $failed failed"
  exit $((failed != 0))
}
trap 'finish interrupted' INT TERM HUP
trap finish EXIT

# In the background, so that a signal to this script is acted upon at once.
run() { "$@" & wait $!; }

# build_tree NAME TARGETS CMAKE_OPTION...: configures $build/NAME and builds targets in it; the log is shown where it
# fails.
build_tree() {
  local name=$1 log=$scratch/build-$1.log targets
  read -ra targets <<<"$2"
  shift 2
  headline "Building $name"
  if run cmake -S "$root" -B "$build/$name" -G Ninja "-DDISMD_TEST_IMAGES=$build/test-images" "$@" >"$log" 2>&1 &&
    run cmake --build "$build/$name" -j "$jobs" --target "${targets[@]}" >>"$log" 2>&1; then
    pass
  else
    grep -E 'error|FAILED|Error' "$log" | head -40 >&2
    tail -n 40 "$log" >&2
    fail "build of $name"
    return 1
  fi
}

# reasons REPORT: the lines that say why tests failed, for the end of the output, which may be all that is seen of it.
reasons() {
  local why='^[A-Za-z.]*(Error|Failure)(:|$)|: Failure$|runtime error:|ERROR: [A-Za-z]+Sanitizer'
  why+='|\*\*\*(Timeout|Exception)'
  grep -E -A 6 "$why" "$1" | cut -c 1-300 | head -n 60
}

# run_ctest NAME OPTION...: runs the tests of $build/NAME and adds its counts to ours.
run_ctest() {
  local name=$1 report=$scratch/ctest-$1.log
  shift
  headline "Testing $name"
  {
    ctest --test-dir "$build/$name" --output-on-failure --no-tests=error -j "$jobs" --timeout 300 "$@" 2>&1 |
      tee "$report" | grep --line-buffered -vE '^ *Start +[0-9]+:|^test [0-9]+$'
  } &
  wait $!
  # The contract's table; of a whole run the sums alone.
  grep -E "${quick:+^\\| |}rows pass" "$build/$name/Testing/Temporary/LastTest.log"
  local summary total=0 bad=0
  summary=$(grep -E '^[0-9]+% tests passed, [0-9]+ tests failed out of [0-9]+' "$report" | tail -n 1)
  if [[ $summary =~ ([0-9]+)\ tests\ failed\ out\ of\ ([0-9]+) ]]; then
    bad=${BASH_REMATCH[1]} total=${BASH_REMATCH[2]}
  else
    fail "ctest in $name ran no tests"
    return
  fi
  # A test that did not run proves nothing.
  local skipped
  skipped=$(grep -cE '\*\*\*(Skipped|Not Run)' "$report")
  ((skipped == 0)) || echo "$skipped tests in $name were skipped" >&2
  passed=$((passed + total - bad)) failed=$((failed + bad))
  ((bad == 0)) || failures+=("$bad tests in $name: $(sed -n '/The following tests FAILED/,$p' "$report" |
    sed -nE 's/^[[:space:]]*[0-9]+ - ([^ ]+).*/\1/p' | tr '\n' ' ')"$'\n'"$(reasons "$report")")
}

# What takes whole images apart has the most to be found in.
long_fuzzers='^(wim_metadata|wim_xml|wim_file|resource_reader|disk_image)_fuzzer$'

fuzz_one() { # TARGET
  local target=$1 name=${1##*/} work seconds=$((fuzz_seconds / 3))
  [[ ! $name =~ $long_fuzzers ]] || seconds=$fuzz_seconds
  work=$scratch/fuzz-$name
  mkdir -p "$work"
  [[ ! -d $root/tests/fuzz/corpus/$name ]] || cp -r "$root/tests/fuzz/corpus/$name/." "$work/"
  (cd "$work" && "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
    -artifact_prefix="$scratch/crash-$name-" "$work" >"$scratch/fuzz-$name.log" 2>&1)
}

run_fuzzers() {
  build_tree fuzz fuzzers -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DDISMD_BUILD_TESTS=OFF -DDISMD_BUILD_FUZZERS=ON || return
  headline "Fuzzing, up to $fuzz_seconds s a target"
  local targets target pids=() names=() i
  mapfile -t targets < <(find "$build/fuzz/bin" -name '*_fuzzer' -type f | sort)
  ((${#targets[@]})) || { fail "no fuzz targets were built"; return; }
  for target in "${targets[@]}"; do
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
    fuzz_one "$target" &
    pids+=($!) names+=("${target##*/}")
  done
  for i in "${!pids[@]}"; do
    if wait "${pids[$i]}"; then
      pass
      echo "  ${names[$i]}: $(grep -oE 'number_of_executed_units: [0-9]+' "$scratch/fuzz-${names[$i]}.log")"
    else
      tail -n 60 "$scratch/fuzz-${names[$i]}.log" >&2
      # The input that did it, to be kept as a test.
      local crash
      for crash in "$scratch/crash-${names[$i]}-"*; do
        [[ ! -s $crash ]] || { echo "input ${crash##*/}, base64:"; base64 -w 0 "$crash" | head -c 20000; echo; } >&2
      done
      fail "fuzzing ${names[$i]}"
    fi
  done
}

headline "Packages"
"$root/packaging/install-packages.sh" build run test soak || { fail "installing packages"; exit; }

# The foreign images lie beside the project where it is developed; their README says where they come from.
if [[ -z ${DISMD_FIXTURES:-} && -e $root/../shared/fixtures/unpack ]]; then
  export DISMD_FIXTURES=$scratch/fixtures
  bash "$root/../shared/fixtures/unpack" "$DISMD_FIXTURES" || { fail "unpacking the foreign images"; exit; }
fi
if [[ -z ${DISMD_FIXTURES:-} ]]; then
  echo "DISMD_FIXTURES is not set and ../shared/fixtures does not exist: tests on foreign images are left out." >&2
  ctest_options+=(-LE '^fixtures$')
fi

# Is the stage to be run?
wanted() { [[ -z $only || $only == "$1" ]]; }
debug_options=(-DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1" -DDISMD_TEST_SEAMS=ON)

if wanted debug; then
  build_tree debug all "${debug_options[@]}" && run_ctest debug "${ctest_options[@]}"
fi
[[ -z $quick ]] || exit

if wanted lint; then
  headline "clang: thread safety, clang-tidy"
  if run /usr/bin/python3 "$root/tests/lint.py" "$build/debug" --jobs "$jobs"; then pass; else fail "clang's checks"; fi
fi

if wanted asan; then
  # Left to the debug build: minutes of other programs, hashing and random writes, of which shorter tests do the same.
  long='^(soak_test|recovery_test\.KilledWorkerTreeTest|BlockWriterTenThousand|.*dirtylog_10G)'
  # The sandboxed worker cannot be ptraced, which LeakSanitizer needs: the worker itself turns leak detection off.
  export ASAN_OPTIONS=abort_on_error=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
  export LSAN_OPTIONS=suppressions=$root/tests/lsan.supp:print_suppressions=0
  build_tree asan all "${debug_options[@]}" -DDISMD_SANITIZE=address,undefined &&
    run_ctest asan -E "$long" "${ctest_options[@]}"
fi

if wanted tsan; then
  # libmount and the worker, which share no process with gRPC, whose threads are not instrumented.
  export TSAN_OPTIONS=suppressions=$root/tests/tsan.supp:halt_on_error=1
  # Left out: what has one thread (and kills it).
  build_tree tsan "wim_format_test wim_fixtures_test wim_read_test fuse_test overlay_test staging_test worker_test" \
    "${debug_options[@]}" -DDISMD_SANITIZE=thread &&
    run_ctest tsan "${ctest_options[@]}" -L '^unit$' -E '(Overlay|Staging)CrashTest|Staged(Tree|Move)Test'
fi

if wanted fuzz; then run_fuzzers; fi
