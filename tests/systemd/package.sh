#!/bin/sh
# The package's life, run after the part of scenario.sh that makes a client: installed, set up, upgraded while knocks and
# connections without a knock arrive, disabled, removed, purged. PORT: a free knock port.
# shellcheck source=tests/systemd/checks.sh
. /checks.sh
unit=knockknock-daemon.service
guarded() { nft list table inet knockknock >/dev/null 2>&1; }
release() { dpkg-query --show --showformat '${Version}' knockknock | sed 's/.*-//'; }
runs_as() { # USER: one process of the daemon does
    group=$(systemctl show --property ControlGroup --value $unit)
    cat "/sys/fs/cgroup$group/cgroup.procs" "/sys/fs/cgroup/systemd$group/cgroup.procs" 2>/dev/null |
        while read -r pid; do ps -o user:32= -p "$pid"; done | grep -qx "$1"
}

rm -rf /etc/knockknock.d /root/.knockknock
check "there is no other knockknock" not command -v knockknock
check "it is installed" dpkg --install /first.deb
check "its unit is enabled" systemctl is-enabled $unit
check "and not started" not systemctl is-active $unit
check "before there is a profile, starting it does nothing" systemctl start $unit
check "and it is not tried over and over" [ "$(systemctl show --property ActiveState --value $unit)" = inactive ]
check "both users exist" getent passwd knockknock knockknock-fw
check "a profile is made" knockknock genprofile gate "$PORT" --ports 22
printf '[main]\nguard = 22\ndelay = 3\nlog = kmsg\nfirewall = nft\n' >/etc/knockknock.d/config
mkdir /root/.knockknock && cp -R /etc/knockknock.d/profiles/gate /root/.knockknock/10.9.0.1
check "as after a reboot, it is started" becomes_ready systemctl start $unit
check "the watcher has a user of its own" runs_as knockknock
check "and the opener another" runs_as knockknock-fw
check "the guarded port is closed" not connects
check "a knock opens it" knocks
check "for one connection" connects

# A client that knocks, and a stranger that does not, through the upgrade.
client ip address add 10.9.0.3/24 dev veth0
: >/served
while [ ! -e /stop ]; do
    client knockknock -p 22 --dir /root/.knockknock 10.9.0.1 && connects && echo served >>/served
done 2>/dev/null &
knocking=$!
while [ ! -e /stop ]; do
    echo tried >>/tried
    [ "$(client busybox nc -s 10.9.0.3 -w 1 10.9.0.1 22 </dev/null 2>/dev/null)" != welcome ] || echo served >>/hole
done &
trying=$!
count() { grep -c . "$1"; }                    # FILE: its lines
served() { [ "$(count /served)" -gt "$1" ]; } # COUNT: more often than that
soon served 2
before=$(main)
check "it is upgraded" dpkg --install /second.deb
after=$(count /served)
check "to the second release" [ "$(release)" = 2 ]
check "and the daemon with it" [ "$(main)" != "$before" ]
check "which is the new program" [ "$(readlink "/proc/$(main)/exe")" = /usr/bin/knockknock ]
check "knocks open as before" soon served $((after + 2))
touch /stop
wait "$knocking" "$trying"
check "somebody without a knock has tried all the time" [ "$(count /tried)" -gt 2 ]
check "and never got in" [ ! -e /hole ]
check "it is enabled as before" systemctl is-enabled $unit

check "a daemon that was stopped and disabled" systemctl disable --now $unit
check "is so after the next upgrade" sh -c "dpkg --install /first.deb && ! systemctl is-enabled $unit && ! systemctl is-active $unit"
check "and its guard stands" guarded

check "while another daemon runs" knockknock-daemon --background
check "it is not removed" not dpkg --remove knockknock
check "and the guard stands" guarded
pid=$(pgrep -o -x knockknock-daem || pgrep -o -f 'knockknock-daemon --background')
kill "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
check "it is removed" dpkg --remove knockknock
check "and the guard with it" not guarded
check "so that the port is open to everybody" connects
check "the keys are still there" [ -s /etc/knockknock.d/profiles/gate/mac.key ]
check "it is purged" dpkg --purge knockknock
check "and the keys with it" [ ! -e /etc/knockknock.d ]
check "nothing of ours is left" [ -z "$(find /etc /usr/bin /usr/lib /usr/share /var/lib/systemd -path '*knockknock*')" ]
echo "$passed passed, $failed failed"
