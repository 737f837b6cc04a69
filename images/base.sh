#!/bin/sh
# A base image for where no registry can be reached: Debian 12 (its python3 is 3.11) by debootstrap, as IMAGE.
# usage: base.sh FOLDER IMAGE [MIRROR]; as root. The environment tells buildah where its storage is.
set -eu
folder=$1 image=$2 mirror=${3:-http://deb.debian.org/debian}
rm -rf "$folder"
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder" "$mirror"
rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/* "$folder"/var/log/*
container=$(buildah from scratch)
buildah add --quiet "$container" "$folder" /
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet --rm "$container" "$image"
rm -rf "$folder"
