#!/bin/sh
# Two machines for the README's commands: the container is server.example.org, with an sshd and the account ann; bob's client is
# a network namespace in it. test_readme.py appends the commands; the last line is "N passed, N failed".
# shellcheck source=tests/systemd/checks.sh
. /checks.sh
on_client() { nsenter --target "$client" --net "$@"; }
as_bob() { on_client runuser -u bob -- env HOME=/home/bob sh -c "$1"; }
server() { check "server: $1" sh -c "cd '$PROJECT' && $1"; }
client() { # bob has no sudo here
    case $1 in
    "sudo "*) check "client: $1" on_client sh -c "${1#sudo }" ;;
    *) check "client: $1" as_bob "$1" ;;
    esac
}
background() {
    as_bob "$1" &
    check "client: $1 &" soon on_client busybox nc -w 1 127.0.0.1 "${1##* }" </dev/null
}
reload() {
    before=$(lines ': ready')
    server "$1"
    check "the daemon is ready again" soon more ': ready' "$before"
}
invite() { server "$1 >/line"; } # the line is pasted by accept
accept() { client "$1" </line; }
connects() { # PORT [SECONDS]
    on_client busybox nc -w "${2:-1}" 10.9.0.1 "$1" </dev/null 2>/dev/null | grep -q .
}
closed() { ! connects "$1"; }
# One connection, whose SYN the kernel repeats after 1 and 3 s. With several of a second each, one may be given up right
# when its repeated SYN has used the opening.
knocks() { # PORT DIRECTORY
    as_bob "knockknock -p $1 --dir $2 server.example.org" && connects "$1" 5
}

echo "10.9.0.1 server.example.org" >>/etc/hosts
unshare --net sleep 1000 &
client=$!
soon not same_network "$client"
ip link add eth0 type veth peer name veth0
ip address add 10.9.0.1/24 dev eth0
ip link set eth0 up
ip link set lo up
ip link set veth0 netns "$client"
on_client ip address add 10.9.0.2/24 dev veth0
on_client ip link set veth0 up
on_client ip link set lo up

rm -rf /etc/knockknock.d
useradd --create-home --shell /bin/sh ann
useradd --create-home --shell /bin/sh bob
runuser -u bob -- ssh-keygen -q -t ed25519 -N '' -f /home/bob/.ssh/id_ed25519
usermod -p '*' ann # not locked, and without a password
install -d -m 700 -o ann /home/ann/.ssh
install -m 600 -o ann /home/bob/.ssh/id_ed25519.pub /home/ann/.ssh/authorized_keys
mkdir -p /run/sshd
# Not in /tmp, which is cleared once the unit of the trial has systemd start basic.target.
ssh-keygen -q -t ed25519 -N '' -f /host_key
/usr/sbin/sshd -f /dev/null -h /host_key -o UsePAM=no -o PidFile=none -o Subsystem="sftp internal-sftp"
sed 's/^\([^ ]* [^ ]*\).*/server.example.org \1/' /host_key.pub >/home/bob/.ssh/known_hosts
echo 'User ann' >/etc/ssh/ssh_config.d/ann.conf
chown -R bob /home/bob/.ssh
busybox nc -ll -p 80 -e echo welcome &
