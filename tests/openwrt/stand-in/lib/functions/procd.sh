# A stand-in for procd: notes what a service asks for in /tmp/procd/NAME.asked, and keeps it running.
# Where /tmp/procd/dry is, nothing is run.
# shellcheck shell=ash
noted=/tmp/procd
mkdir -p $noted

# The real one makes a message to procd with jshn. Without jshn, on other machines, there is none.
if [ -e /usr/share/libubox/jshn.sh ]; then
	# shellcheck disable=SC1091 # on the router
	. /usr/share/libubox/jshn.sh
else
	for function in init dump add_string add_object close_object add_array close_array; do eval "json_$function() { :; }"; done
fi

procd_open_service() {
	service=$1
	command=
	json_init
	json_add_string name "$service"
	json_add_object instances
}
procd_open_instance() { json_add_object instance1; }
procd_close_instance() { json_close_object; }
procd_set_param() {
	local name=$1 value
	case $name in
	command) shift && command=$* ;;
	respawn) shift && pause=$2 ;;
	*) json_add_string "$name" "$2" && return ;;
	esac
	json_add_array "$name"
	for value in "$@"; do json_add_string "" "$value"; done
	json_close_array
}
procd_add_reload_trigger() {
	json_add_array reload_triggers
	json_add_string "" "$1"
	json_close_array
}

procd_close_service() {
	json_close_object
	service_triggers
	json_dump >"$noted/$service.asked"
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
