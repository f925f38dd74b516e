#!/bin/sh
# Makes a virtual environment, once: venv.sh DIRECTORY REQUIREMENTS VERSION...
#
# Takes the first of the Python versions that this machine has, or else lets uv
# fetch it. Installs with uv, which takes seconds, or else with pip, which takes
# minutes. Where uv is missing, pip brings a copy of it from PyPI for this one
# use. LPG_INSTALLER=pip leaves uv out.
#
# Does nothing if DIRECTORY was made from the same REQUIREMENTS; makes it anew
# if they have changed.
set -eu

directory=$1
requirements=$2
shift 2

sum=$(cksum < "$requirements")
stamp=$directory/installed
[ "$(cat "$stamp" 2> /dev/null)" = "$sum" ] && exit 0

aside=$(mktemp -d)
trap 'rm -rf "$aside"' EXIT
trap 'exit 130' INT TERM

say() { echo "venv.sh: $*" >&2; }

# Prints the path of a Python $1 that can make environments.
find_python() {
  for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python \
      "/usr/bin/python$1" "/usr/local/bin/python$1" python3; do
    if "$python" -c "
import ensurepip, sys, venv
sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2> /dev/null; then
      echo "$python"
      return 0
    fi
  done
  return 1
}

# Sets `uv` to what is installed, or else to a copy that the pip of the Python
# $1 brings.
find_uv() {
  [ "${LPG_INSTALLER:-uv}" = uv ] || return 1
  uv=$(command -v uv) && return 0
  uv=$aside/bin/uv
  [ -x "$uv" ] && return 0
  "$1" -m pip install --quiet --disable-pip-version-check --target "$aside" \
    uv > /dev/null 2>&1 && [ -x "$uv" ]
}

make_with_uv() {
  if ! command -v uv > /dev/null; then
    python3 -m venv "$aside/python" 2> /dev/null || return 1
  fi
  find_uv "$aside/python/bin/python" || return 1
  "$uv" venv --quiet --seed --python "$1" "$directory" 2> /dev/null
}

install_with_uv() {
  find_uv "$directory/bin/python" || return 1
  say "installing $requirements into $directory"
  "$uv" pip install --quiet --python "$directory/bin/python" \
    --requirement "$requirements"
}

install_with_pip() {
  say "installing $requirements into $directory with pip (a few minutes, once)"
  "$directory/bin/python" -m pip install --quiet --disable-pip-version-check \
    --requirement "$requirements"
}

rm -rf "$directory"
for version in "$@"; do
  if python=$(find_python "$version"); then
    "$python" -m venv "$directory"
    break
  fi
done
[ -d "$directory" ] || for version in "$@"; do
  say "fetching Python $version"
  make_with_uv "$version" && break
done
if ! [ -x "$directory/bin/python" ]; then
  rm -rf "$directory"
  say "needs Python $1, which is neither here nor could be fetched; install" \
    "it (Debian and Ubuntu: python$1 and python$1-venv) and try again"
  exit 1
fi

install_with_uv || install_with_pip
"$directory/bin/python" -m pip check > /dev/null || {
  "$directory/bin/python" -m pip check >&2
  exit 1
}
echo "$sum" > "$stamp"
