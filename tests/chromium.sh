#!/usr/bin/env bash
# Install Debian's Chromium for the tests of the web pages. Without it they are skipped.
set -euo pipefail
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
"${as_root[@]}" apt-get update -qq -o Acquire::http::Timeout=30 -o Acquire::Retries=1
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core
