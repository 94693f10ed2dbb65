# Sourced by the scripts beside it: finds a Python, makes .venv, installs edgedet with an extra into it.
# An environment whose stamp matches pyproject.toml is used as it is.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
BIN="$VENV/bin"

heading() { printf '\n== %s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# $PYTHON, or else the first Python of at least 3.10.
find_python() {
    local candidate found=""
    set -- python3 python3.14 python3.13 python3.12 python3.11 python3.10 python
    [ -z "${PYTHON:-}" ] || set -- "$PYTHON"
    for candidate in "$@"; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        found="$found $candidate ($("$candidate" --version 2>&1 | head -n 1))"
    done
    die "edgedet needs Python 3.10 or newer; found:${found:- none}. Install one, or set PYTHON=/path/to/python3"
}

# What an environment must have been made from to be used again.
fingerprint() {
    "$1" - "$ROOT/pyproject.toml" <<'PY'
import hashlib, pathlib, sys
print(hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes()).hexdigest(), sys.argv[1], sys.version.split()[0])
PY
}

# make_environment EXTRA [EXTRA_THAT_INCLUDES_IT]
make_environment() {
    local extra="$1" wider="${2:-$1}" python mark stamp log
    if [ -x "$BIN/python" ] && mark="$(fingerprint "$BIN/python" 2>/dev/null)"; then
        for stamp in "$VENV/.edgedet-$extra" "$VENV/.edgedet-$wider"; do
            if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$mark" ]; then
                echo "environment .venv is up to date"
                return
            fi
        done
    fi
    heading "Making the environment .venv with edgedet[$extra] (the first time, 5 GB are fetched: some minutes)"
    python="$(find_python)"
    if ! "$BIN/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$VENV"
        log="$("$python" -m venv "$VENV" 2>&1)" || {
            rm -rf "$VENV"
            case "$log" in
                *ensurepip*) die "$python cannot make a virtual environment: on Debian or Ubuntu, install python3-venv" ;;
                *) die "$python -m venv failed: $(printf '%s' "$log" | tail -n 1)" ;;
            esac
        }
    fi
    # pip's own lines are the progress; what is there already is none
    "$BIN/python" -m pip install --editable "$ROOT[$extra]" |
        { grep --line-buffered -v 'already satisfied' || true; } ||
        die "installing edgedet[$extra] failed; pip's message is above"
    fingerprint "$BIN/python" >"$VENV/.edgedet-$extra"
}
