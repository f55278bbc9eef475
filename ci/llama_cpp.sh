# Sourced, with `here` set to this folder and `skip` to what is to be done where the tools cannot be
# had: `build_llama_cpp PROGRAM...` builds programs of llama.cpp from the source that PyPI's
# llama-cpp-python carries, CMake's release build for this machine (GGML_NATIVE), and sets `llama`
# to where they are. Source and build are kept in target/llama.cpp.
#
# Needs gcc, python3 with venv, PyPI, and cmake, which it installs if missing (as root, on Debian).
version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
source "$here/venv.sh"

# Sets `source` to where the source is, and gets it if it is not there.
fetch_llama_cpp() {
  local home=$target/llama.cpp/$version
  source=$home/source
  [ ! -d "$source" ] || return 0
  mkdir -p "$home"
  python3 "$here/llama_cpp_source.py" "$version" "$sha256" "$home/sdist.tar.gz" || skip "no source of llama.cpp"
  rm -rf "$home/unpacked"
  mkdir "$home/unpacked"
  tar -xzf "$home/sdist.tar.gz" -C "$home/unpacked" --strip-components=3 "llama_cpp_python-$version/vendor/llama.cpp"
  mv "$home/unpacked" "$source"
  rm "$home/sdist.tar.gz"
}

build_llama_cpp() {
  local home=$target/llama.cpp/$version missing=()
  llama=$home/build/bin
  for program; do
    [ -x "$llama/$program" ] || missing+=("$program")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v cmake >/dev/null; then
    { apt-get update -q && apt-get install -qy --no-install-recommends cmake; } >/dev/null 2>&1 || skip "no cmake"
  fi
  command -v g++ >/dev/null || skip "no g++"
  fetch_llama_cpp
  echo "building ${missing[*]}; log in $home/log" >&2
  local options=(-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_CCACHE=OFF -DLLAMA_OPENSSL=OFF
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF)
  {
    cmake -S "$home/source" -B "$home/build" "${options[@]}" &&
      cmake --build "$home/build" --target "${missing[@]}" -j "${JOBS:-2}"
  } >"$home/log" 2>&1 || skip "llama.cpp does not build here: $home/log"
}
