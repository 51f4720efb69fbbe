# A stand-in for what OpenWrt's functions.sh makes of a UCI file, which is nearly shell itself: the callbacks.
# shellcheck shell=ash
config() { config_cb "$1" "$2"; }
option() { option_cb "$1" "$2"; }
list() { list_cb "$1" "$2"; }

config_load() {
	[ -r "/etc/config/$1" ] && sh -n "/etc/config/$1" 2>/dev/null || return 1
	# shellcheck disable=SC1090 # the file in question
	. "/etc/config/$1"
	config_cb
}
