# A stand-in for OpenWrt's functions.sh: the callbacks for a UCI file. As in the real one, uci writes it as shell commands, where it is.
# shellcheck shell=ash
package() { :; }
config() { config_cb "$1" "$2"; }
option() { option_cb "$1" "$2"; }
list() { list_cb "$1" "$2"; }

config_load() {
	local commands
	if command -v uci >/dev/null; then
		commands=$(uci -n export "$1" 2>/dev/null) || return
		eval "$commands"
	else # a machine for which there is no uci: the file is nearly shell itself
		[ -r "/etc/config/$1" ] && sh -n "/etc/config/$1" 2>/dev/null || return 1
		# shellcheck disable=SC1090 # the file in question
		. "/etc/config/$1"
	fi
	config_cb
}
