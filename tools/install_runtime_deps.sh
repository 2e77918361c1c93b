#!/usr/bin/env bash
# Installs what building runtime/ needs beyond libtorch, from the distribution's packages (Debian, Ubuntu). Asks for root when it is not.
#
#   bash tools/install_runtime_deps.sh
set -euo pipefail
packages=(cmake g++ make libgtest-dev)

case "${1:-}" in
  "") ;;
  -h | --help) awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "unknown argument $1 (known: --help)" >&2; exit 2 ;;
esac
command -v apt-get >/dev/null || { echo "no apt-get here; install the counterparts of: ${packages[*]}" >&2; exit 2; }
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then echo "all there: ${packages[*]}"; exit 0; fi
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get install --yes --no-install-recommends "${missing[@]}"
