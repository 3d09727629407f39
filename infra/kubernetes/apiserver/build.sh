#!/usr/bin/env bash
# Builds kube-apiserver, kube-controller-manager and etcd for tests against a real API server: about five minutes the first time.
# They go to .cache/kubernetes/<hash of go.sum>/, where the tests look; nothing else of the project needs them.
set -euo pipefail
cd "$(dirname "$0")"
version=v$(sed -n 's/^\tk8s.io\/kubernetes v//p' go.mod)
stamp=k8s.io/component-base/version
out=$(git rev-parse --show-toplevel)/.cache/kubernetes/$(sha256sum go.sum | cut -c1-12)
mkdir -p "$out"
for tool in go.etcd.io/etcd/server/v3 k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager; do
  name=$(basename "$tool")
  [[ $name == v3 ]] && name=etcd
  [[ -x $out/$name ]] && continue
  echo "building $name"
  CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$out/$name" \
    -ldflags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(cut -d. -f2 <<<"$version")" "$tool"
done
echo "$out"
