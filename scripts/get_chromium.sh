#!/usr/bin/env bash
# The browser in which CI opens report.html. Where it can neither be found nor installed its tests skip and say so.
command -v chromium >/dev/null && exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "no chromium, and no way to install it here"; exit 0; }
{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 ||
  echo "chromium could not be installed"
exit 0
