# For sh to source, in the project's folder: build.sh runs at the lowest priority beside what follows, and ends with it. Without Go: nothing.
if command -v go >/dev/null && command -v setsid >/dev/null; then
  mkdir -p .cache/kubernetes
  idle=$(command -v ionice >/dev/null && echo "ionice -c 3")
  # shellcheck disable=SC2086 # it is several words, or none
  setsid nice -n 19 $idle infra/kubernetes/apiserver/build.sh >.cache/kubernetes/build.log 2>&1 &
  builder=$!
  trap 'kill -TERM "-$builder" 2>/dev/null' EXIT
  trap 'exit 130' INT TERM
fi
