# A stand-in for procd: notes what a service asks for in /tmp/procd/NAME, and keeps it running.
# Where /tmp/procd/dry is, nothing is run.
# shellcheck shell=ash
noted=/tmp/procd
mkdir -p $noted

procd_open_service() {
	service=$1
	command=
	: >"$noted/$service.asked"
}
procd_open_instance() { :; }
procd_close_instance() { :; }
procd_set_param() {
	echo "$*" >>"$noted/$service.asked"
	case $1 in
	command) shift && command=$* ;;
	respawn) pause=$3 ;;
	esac
}
procd_add_reload_trigger() { echo "reload_trigger $*" >>"$noted/$service.asked"; }

procd_close_service() {
	service_triggers
	[ -n "$command" ] && [ ! -e $noted/dry ] || return 0
	procd_running "$service" && return # the real one compares the old with the new
	echo $$ >"$noted/$service.wanted"
	while echo procd >/proc/self/comm && wanted; do # the daemon's parent
		$command 2>>"$noted/$service.stderr" &
		echo $! >"$noted/$service.pid"
		wait $!
		if wanted; then sleep "$pause"; fi
	done </dev/null >/dev/null 2>&1 &
}

wanted() { [ "$(cat "$noted/$service.wanted" 2>/dev/null)" = $$ ]; } # by this start, and no later one
procd_running() { [ -e "$noted/$1.wanted" ]; }
procd_kill() {
	procd_running "$1" || return
	rm "$noted/$1.wanted"
	kill "$(cat "$noted/$1.pid")" && while kill -0 "$(cat "$noted/$1.pid")" 2>/dev/null; do sleep 0.1; done
}
procd_send_signal() {
	echo "signal $3" >>"$noted/$1.signals"
	[ -e $noted/dry ] || kill "-$3" "$(cat "$noted/$1.pid")"
}
