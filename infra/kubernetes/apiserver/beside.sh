#!/usr/bin/env bash
# beside.sh COMMAND...: build.sh runs beside a command, at the lowest priority, and ends with it. Without Go there is only the command.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
log=$(cd "$here/../../.." && pwd)/.cache/kubernetes/build.log
if command -v go >/dev/null && command -v setsid >/dev/null; then
  mkdir -p "$(dirname "$log")"
  setsid nice -n 19 "$here/build.sh" >"$log" 2>&1 &
  builder=$!
  trap 'kill -- "-$builder" 2>/dev/null' EXIT
fi
"$@"
