#!/usr/bin/env bash
# Run "make test" under every supported Python that is installed, one after the other, each in an
# environment of its own (.venv-3.10 ...), and print a table. Exit 1 if one of them failed.
#
#   tools/test_all_pythons.sh              every version found
#   tools/test_all_pythons.sh 3.10 3.13    these
#
# A version is looked for as pythonX.Y on the path and among those of pyenv. Logs are kept in
# build/test-logs/.
set -euo pipefail
cd "$(dirname "$0")/.."

SUPPORTED=(3.10 3.11 3.12 3.13)
LOGS=build/test-logs

# Print an interpreter of version $1, or nothing.
interpreter() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if "$candidate" -c "import sys; sys.exit('$1' != '%d.%d' % sys.version_info[:2])" 2>/dev/null
        then
            echo "$candidate"
            return
        fi
    done
}

versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=("${SUPPORTED[@]}")
mkdir -p "$LOGS"
rows=() failed=0
for version in "${versions[@]}"; do
    python=$(interpreter "$version")
    if [ -z "$python" ]; then
        rows+=("$version|not installed|")
        [ $# -eq 0 ] || failed=1 # it was asked for
        continue
    fi
    log=$LOGS/$version.log
    echo "$version: $python, log in $log"
    start=$SECONDS
    if make test PYTHON="$python" VENV=".venv-$version" >"$log" 2>&1; then
        outcome=passed
    else
        outcome=FAILED failed=1
    fi
    counts=$(grep -E '^[0-9]+ (passed|failed|skipped|error)' "$log" | tail -1 || true)
    rows+=("$version|$outcome|${counts:-$(tail -1 "$log")} ($((SECONDS - start)) s in all)")
done

printf '\n%-8s %-14s %s\n' Python outcome tests
for row in "${rows[@]}"; do
    IFS='|' read -r version outcome counts <<<"$row"
    printf '%-8s %-14s %s\n' "$version" "$outcome" "$counts"
done
exit $failed
