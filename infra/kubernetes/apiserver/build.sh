#!/usr/bin/env bash
# Builds what the tests against a real API server need: etcd, kube-apiserver and the Deployment controllers (build.sh), and for the
# end-to-end test also kube-controller-manager, kube-scheduler and kwok (build.sh all). They go to .cache/kubernetes/<hash>/, where the
# tests look; nothing else of the project needs them. GOMAXPROCS and GOFLAGS are heeded.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
kwok=v0.8.0
version=v$(sed -n 's/^\tk8s.io\/kubernetes v\([0-9.]*\).*/\1/p' go.mod)
stamp=k8s.io/component-base/version
out=$root/.cache/kubernetes/$(cat go.sum controllers/main.go | sha256sum | cut -c1-12)
flags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(cut -d. -f2 <<<"$version")"
export CGO_ENABLED=0 GOGC=${GOGC:-800} # compilers are short-lived: collecting their garbage costs more than keeping it
mkdir -p "$out"
echo $$ >"$out/building" # the tests wait while this process lives
trap 'rm -f "$out/building"' EXIT

build() { # NAME PACKAGE: the name appears once it is whole
  [[ -x $out/$1 ]] && return
  echo "building $1"
  go build -trimpath -buildvcs=false -gcflags="all=-N -l -dwarf=false" -ldflags="$flags" -o "$out/$1.part" "$2" # quick to build, not to run
  mv "$out/$1.part" "$out/$1"
}

build etcd go.etcd.io/etcd/server/v3
build controllers ./controllers
build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
if [[ ${1:-} == all ]]; then
  build kube-scheduler k8s.io/kubernetes/cmd/kube-scheduler
  build kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager
  if [[ ! -x $out/kwok ]]; then
    echo "building kwok"
    GOBIN=$out go install -trimpath "sigs.k8s.io/kwok/cmd/kwok@$kwok"
    cp -f "$(go env GOMODCACHE)/sigs.k8s.io/kwok@$kwok"/kustomize/stage/*/fast/{node,pod}-*.yaml "$out/"
  fi
fi
echo "$out"
