#!/bin/sh
# Print an interpreter of this version of Python, such as 3.12: one on PATH, else one of pyenv's, else one that uv has
# or fetches. (pyenv's shims are on PATH for versions that are not switched on, and fail; so each one found is run.)
version=$1
uv=${2:-uv}

works() {
  [ -n "$1" ] && [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$version" ]
}

IFS=:
for folder in $PATH; do
  if works "$folder/python$version"; then echo "$folder/python$version"; exit 0; fi
done
unset IFS
for python in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python"$version"; do
  if works "$python"; then echo "$python"; exit 0; fi
done
found=$("$uv" python find --quiet --managed-python "$version" 2>/dev/null)
if ! works "$found" && "$uv" python install --quiet "$version" >/dev/null 2>&1; then
  found=$("$uv" python find --quiet --managed-python "$version" 2>/dev/null)
fi
if works "$found"; then echo "$found"; exit 0; fi
echo "There is no Python $version on PATH or in pyenv, and uv could not fetch one: install it (for example \
apt-get install python$version python$version-venv, pyenv install $version, brew install python@$version) and run make again." >&2
exit 1
