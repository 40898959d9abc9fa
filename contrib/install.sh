#!/bin/sh
# Installs iofog-connector from its archive on any Linux, or takes it away again. For a POSIX shell (dash, BusyBox).
#
#   install.sh [OPTION...] [ARCHIVE]      `install.sh --help` says more
#
# It looks first and says what it would change, then changes that, so that a second run finds nothing to do.
set -eu

# Whatever the caller has: folders are for all to enter and for root alone to write, the system's own programs are found
# (`su` without - leaves their folders out), and `cd` and tar do nothing that does not stand here.
umask 022
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
unset CDPATH TAR_OPTIONS

NAME=iofog-connector
ETC=/etc/$NAME
LOG=/var/log/$NAME
PROCESSORS='amd64, arm64, armv7, armv6 and riscv64'

usage() {
	cat <<-END
	Usage: install.sh [OPTION...] [ARCHIVE]

	Installs iofog-connector: from ARCHIVE; without one, from the folder of this script, where an unpacked archive or
	the archive for this machine's processor is. Settings, state and logs that are there are never changed.

	  --prefix DIR   where the program goes: DIR/bin, DIR/share        [/usr/local]
	  --init WORD    systemd, openrc, runit, sysvinit or none          [as installed, or what runs here]
	  --key FILE     public key (OpenSSH's, or minisign's) by which SHA256SUMS.sig beside the archive must be signed
	  --no-start     install the service, and neither enable nor start it
	  --dry-run      say what would be done, and do nothing
	  --uninstall    take away what was installed; settings, state, logs and the user stay
	  --help         this text

	Exit codes: 0 done, or nothing to do; 1 failed, the message says why; 2 the command line has a fault.
	END
}

die() {
	echo "install.sh: $*" >&2
	explained=yes
	exit 1
}

misused() {
	echo "install.sh: $*; see install.sh --help" >&2
	exit 2
}

has() { command -v "$1" >/dev/null 2>&1; }

prefix=/usr/local
init=
key=
archive=
uninstall=
start=yes
dry=
asleep=
explained=

while [ $# -gt 0 ]; do
	case $1 in
		--prefix | --init | --key)
			[ -n "${2-}" ] || misused "$1 needs a value"
			case $1 in
				--prefix) prefix=$2 ;;
				--init) init=$2 ;;
				--key) key=$2 ;;
			esac
			shift
			;;
		--prefix= | --init= | --key=) misused "${1%=} needs a value" ;;
		--prefix=*) prefix=${1#*=} ;;
		--init=*) init=${1#*=} ;;
		--key=*) key=${1#*=} ;;
		--no-start) start= ;;
		--dry-run) dry=yes ;;
		--uninstall) uninstall=yes ;;
		-h | --help)
			usage
			exit
			;;
		-*) misused "unknown option \"$1\"" ;;
		*)
			[ -z "$archive" ] || misused "there is more than one archive: $archive and $1"
			archive=$1
			;;
	esac
	shift
done
# It is put into scripts and units as it is.
case $prefix in
	/) misused "--prefix / is the root itself: give a folder in it, such as /usr" ;;
	*[!A-Za-z0-9_/.-]*) misused "--prefix \"$prefix\" has other characters than letters, digits and _ / . -" ;;
	/?*) prefix=${prefix%/} ;;
	*) misused "--prefix \"$prefix\" does not begin with /" ;;
esac
case $init in
	'' | systemd | openrc | runit | sysvinit | none) ;;
	*) misused "--init \"$init\" is none of systemd, openrc, runit, sysvinit and none" ;;
esac
PROGRAM=$prefix/bin/$NAME
# What OpenRC and runit watch in the place of the daemon.
STAND_IN=$prefix/share/$NAME/stand-in
# What was installed: a checksum and a path in each line.
LIST=$prefix/share/$NAME/installed

# Of what was begun and not finished there is a list, too, by which --uninstall takes it away.
at_end() {
	if [ $pass = act ] && [ -z "$uninstall" ] && [ ! -f "$LIST" ] && mkdir -p "${LIST%/*}" 2>/dev/null; then
		cp "$work/installed" "$LIST.part" 2>/dev/null || rm -f "$LIST.part"
	fi
	[ $pass != act ] || [ -n "$explained" ] ||
		echo "install.sh: this was not finished, for the reason above: mend that, and run install.sh again" >&2
	rm -rf "$work"
}

# What comes to be done is said in the first pass, and done in the second.
pass=plan
steps=0
work=$(mktemp -d)
trap at_end EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/files"
here=$(cd "$(dirname "$0")" && pwd)

# step WORDS COMMAND [ARGUMENT...]
step() {
	steps=$((steps + 1))
	if [ $pass = plan ]; then
		echo "  $1"
		return
	fi
	echo "  $1"
	shift
	"$@"
}

sum() { sha256sum "$1" | cut -d ' ' -f 1; }

# The checksum that $1 was installed with, or nothing.
listed() {
	[ ! -f "$LIST" ] || sed -n "s|^\([0-9a-f]\{64\}\)  $1\$|\1|p" "$LIST"
}

# Names the processor by the archives' names, or nothing.
own_processor() {
	case $(uname -m) in
		x86_64) echo amd64 ;;
		aarch64 | arm64) echo arm64 ;;
		armv7* | armv8*) echo armv7 ;;
		armv6*) echo armv6 ;;
		riscv64) echo riscv64 ;;
	esac
}

# Whether a program for $1 can be one for this machine. The rest is what it says itself.
fits() {
	case $1/$(uname -m) in
		amd64/x86_64 | arm64/aarch64 | arm64/arm64 | riscv64/riscv64) ;;
		# 64-bit Arm runs both, where processor and kernel know 32 bits.
		armv7/armv7* | armv7/armv8* | armv7/aarch64 | armv7/arm64) ;;
		armv6/armv[678]* | armv6/aarch64 | armv6/arm64) ;;
		*) return 1 ;;
	esac
}

# Copies the archive and what is beside it to where nobody else can change them, and checks the archive against
# SHA256SUMS, and that against its signature.
verify() {
	name=${1##*/}
	sums=$(dirname "$1")/SHA256SUMS
	cp "$1" "$work/packed"
	if [ ! -f "$sums" ]; then
		[ -z "$key" ] || die "--key is given, and there is no $sums to check; put SHA256SUMS and SHA256SUMS.sig beside the archive"
		echo "Nothing is checked: there is no SHA256SUMS beside $name."
		return
	fi
	cp "$sums" "$work/sums"
	if [ -n "$key" ]; then
		signature=$sums.sig
		[ -f "$signature" ] || signature=$sums.minisig
		[ -f "$signature" ] || die "--key is given, and there is no $sums.sig to check; put it beside the archive"
		cp "$signature" "$work/signature"
		signed "$work/sums" "$work/signature" ||
			die "the signature $signature is not one of $sums by $key: do not use these files"
		echo "Checked: SHA256SUMS is signed by $key."
	fi
	wanted=$(wanted_sum "$name")
	[ -n "$wanted" ] || die "$sums does not name $name: the file is of another release, or has another name"
	found=$(sum "$work/packed")
	[ "$found" = "$wanted" ] ||
		die "$1 is not what SHA256SUMS says: its checksum is $found, and should be $wanted; fetch it again"
	echo "Checked: $name is what SHA256SUMS says."
	if [ -z "$key" ] && { [ -f "$sums.sig" ] || [ -f "$sums.minisig" ]; }; then
		echo "Not checked: who has signed SHA256SUMS (--key FILE does that)."
	fi
}

# What SHA256SUMS says of the file $1, or nothing. A name is compared as it is: it may be anybody's.
wanted_sum() {
	while read -r was file || [ -n "$was" ]; do
		case $was in
			'' | *[!0-9a-f]*) continue ;;
		esac
		if [ "${file#\*}" = "$1" ]; then
			echo "$was"
			return
		fi
	done <"$work/sums"
}

# Whether $2 is a signature of $1 by the key.
signed() {
	[ -f "$key" ] || die "there is no key $key"
	case $(head -n 1 "$key") in
		'-----BEGIN '* | 'untrusted comment:'*' secret key') die "$key is the secret half of a key: give the public one" ;;
	esac
	if grep -q '^untrusted comment:' "$key"; then
		has minisign || die "$key is a key of minisign, which is not installed here"
		minisign -V -q -p "$key" -x "$2" -m "$1" >/dev/null 2>&1
		return
	fi
	has ssh-keygen || die "$key is a key of OpenSSH, whose ssh-keygen is not installed here"
	case $(ssh-keygen -Y nothing 2>&1) in
		*' option -- '*) die "this machine's ssh-keygen is older than OpenSSH 8.1, and cannot check signatures: check the files on another" ;;
	esac
	# Public keys alone, or a file of allowed signers, in which names stand before them.
	signer=$NAME
	grep -v -e '^[[:space:]]*#' -e '^[[:space:]]*$' "$key" >"$work/keys" || die "there is no key in $key"
	case $(head -n 1 "$work/keys") in
		ssh-* | ecdsa-* | sk-*) sed "s/^/$signer /" "$work/keys" >"$work/signers" ;;
		*)
			cp "$key" "$work/signers"
			signer=$(ssh-keygen -Y find-principals -s "$2" -f "$key" 2>/dev/null | head -n 1)
			[ -n "$signer" ] || return 1
			;;
	esac
	for namespace in file "$NAME"; do
		ssh-keygen -Y verify -f "$work/signers" -I "$signer" -n "$namespace" -s "$2" <"$1" >/dev/null 2>&1 && return
	done
	return 1
}

# Whether everybody may put files into the folder $1, as into /tmp.
is_open() {
	case $(ls -ld "$1") in
		????????w*) return 0 ;;
		*) return 1 ;;
	esac
}

# Finds the files: the folder `from`.
find_files() {
	[ -n "$archive" ] || ! is_open "$here" ||
		die "everybody may put files into $here, so that nothing is looked for there: give the archive's name"
	if [ -z "$archive" ] && [ -f "$here/processor" ]; then
		from=$here
		[ -z "$key" ] || die "--key checks an archive: give its name, in place of the unpacked folder $here"
		echo "Nothing is checked: $here is unpacked already."
		return
	fi
	if [ -z "$archive" ]; then
		own=$(own_processor)
		[ -n "$own" ] || die "this machine's processor is $(uname -m), and there are programs for $PROCESSORS alone"
		set -- "$here/$NAME"-*-linux-"$own".tar.gz
		[ $# = 1 ] || die "there is more than one archive for $own in $here: give the name of one"
		archive=$1
		[ -f "$archive" ] ||
			die "this machine's processor is $(uname -m), and $here has no $NAME-VERSION-linux-$own.tar.gz; fetch that one, or give its name"
	fi
	[ -f "$archive" ] || die "there is no file $archive"
	verify "$archive"
	mkdir "$work/archive"
	gzip -dc <"$work/packed" | tar -xf - -C "$work/archive" || die "$archive cannot be unpacked: it is no archive of $NAME, or is cut short; or $work has no room (TMPDIR names another place)"
	for from in "$work"/archive/*; do :; done
	[ -f "$from/processor" ] || die "$archive is no archive of $NAME"
}

# Whether the program runs here, before anything is touched.
check_machine() {
	for_processor=$(cat "$from/processor")
	fits "$for_processor" || {
		own=$(own_processor)
		die "this program is for $for_processor, and this machine's processor is $(uname -m): ${own:+take the archive for $own}${own:-there are programs for $PROCESSORS alone}"
	}
	# Where the archive was unpacked may be a file system that runs nothing.
	code=0
	said=$("$from/$NAME" version 2>&1) || code=$?
	case $code in
		0) version=$(echo "$said" | sed -n '1s/.* //p') ;;
		126 | 127 | 132) die "this machine's processor ($(uname -m)) or kernel does not run the program for $for_processor${said:+: $said}; or $from is on a file system that runs nothing (noexec): set TMPDIR to another" ;;
		*) die "the program does not run here: \"$NAME version\" ended with status $code${said:+ and said: $said}" ;;
	esac
	[ "$(id -u)" = 0 ] || [ -n "$dry" ] || die "this needs root: run it with sudo, or as root"
	if has dpkg-query && [ "$(dpkg-query -W -f '${Status}' $NAME 2>/dev/null)" = 'install ok installed' ]; then
		die "Debian's package $NAME is installed here: upgrade that (apt install ./FILE.deb), or remove it first"
	fi
	case $init in
		openrc) can_give_ports /usr/bin/setpriv || openrc_gives_ports || lacks_setpriv ;;
		runit) can_give_ports setpriv || lacks_setpriv ;;
	esac
}

# Whether this setpriv is util-linux's, which can leave a program the right to open ports below 1024 and no other.
can_give_ports() { "$1" --help 2>&1 | grep -q -e --bounding-set; }

# Whether OpenRC does without: it has to be built with libcap.
openrc_gives_ports() {
	RC_SVCNAME=$NAME supervise-daemon $NAME --capabilities ^cap_net_bind_service --help >/dev/null 2>&1
}

lacks_setpriv() {
	die "the services for $init need setpriv of util-linux, which this machine lacks (BusyBox's is another): install it (package setpriv or util-linux), or give --init sysvinit or --init none"
}

# What the services were installed for, or else what runs here.
find_init() {
	[ -z "$init" ] || return 0
	if [ -f "$LIST" ]; then
		case $(sed 's/^[^ ]* *//' "$LIST") in
			*/etc/systemd/system/$NAME.service*) init=systemd ;;
			*/etc/sv/$NAME/run*) init=runit ;;
			*/etc/init.d/$NAME*)
				init=sysvinit
				! head -n 1 "/etc/init.d/$NAME" 2>/dev/null | grep -q openrc-run || init=openrc
				;;
			*) init=none ;;
		esac
		return
	fi
	first=$(cat /proc/1/comm 2>/dev/null) || first=
	if [ -d /run/systemd/system ]; then
		init=systemd
	elif [ -d /run/openrc ] && has rc-service; then
		init=openrc
	elif [ "$first" = runit ] && has sv; then
		init=runit
	elif [ -d /etc/init.d ]; then
		init=sysvinit
		find_asleep
	else
		init=none
	fi
}

# Whether another run has put it elsewhere, and the service here is that one's.
check_prefix() {
	also=', or take that away first'
	[ -z "$uninstall" ] || also=
	for one in "/etc/systemd/system/$NAME.service" "/etc/init.d/$NAME" "/etc/sv/$NAME/run"; do
		[ -f "$one" ] || continue
		other=$(grep -o "/[A-Za-z0-9_/.-]*/bin/$NAME" "$one" | head -n 1)
		other=${other%/bin/"$NAME"}
		[ "$other" = "$prefix" ] || [ ! -f "$other/share/$NAME/installed" ] ||
			die "$NAME is installed in $other: give --prefix $other$also"
	done
}

# What would run the services if this system were started, as one is in which somebody is by chroot: `asleep`.
find_asleep() {
	case $(readlink -f /sbin/init) in
		*/systemd) asleep=systemd ;;
		*) [ ! -d /etc/runlevels ] || asleep=openrc ;;
	esac
}

is_user() { grep -q "^$NAME:" /etc/passwd || id "$NAME" >/dev/null 2>&1; }
is_group() { grep -q "^$NAME:" /etc/group || { has getent && getent group "$NAME" >/dev/null; }; }

add_group() {
	if has groupadd; then
		groupadd -r "$NAME"
	elif has addgroup; then
		addgroup -S "$NAME"
	else
		free_id
		echo "$NAME:x:$id:" >>/etc/group
	fi
}

# A number that neither a user nor a group has: `id`.
free_id() {
	id=999
	while grep -q "^[^:]*:[^:]*:$id:" /etc/passwd /etc/group; do
		id=$((id - 1))
	done
}

add_user() {
	shell=/bin/false
	for one in /usr/sbin/nologin /sbin/nologin; do
		[ ! -x $one ] || shell=$one
	done
	if has useradd; then
		useradd -r -g "$NAME" -M -d /nonexistent -s $shell -c 'ioFog Connector' "$NAME"
	elif has adduser; then
		adduser -S -D -H -h /nonexistent -s $shell -g 'ioFog Connector' -G "$NAME" "$NAME"
	else
		# What the smallest BusyBox has not.
		group=$(sed -n "s/^$NAME:[^:]*:\([0-9]*\):.*/\1/p" /etc/group)
		free_id
		echo "$NAME:x:$id:$group:ioFog Connector:/nonexistent:$shell" >>/etc/passwd
		[ ! -f /etc/shadow ] || echo "$NAME:!:::::::" >>/etc/shadow
	fi
}

# make_folder FOLDER OWNER MODE. What the service's user may write in is no place to follow a link.
make_folder() {
	mkdir -p "${1%/*}"
	mkdir "$1"
	settle "$1" "$2" "$3"
}

settle() {
	chown "$2" "$1"
	chmod "$3" "$1"
}

# Whether the service's user owns the folder $1, as in earlier releases: then it could remove what is root's there, and
# put a link in its place.
is_loose() {
	[ -d "$1" ] && [ ! -L "$1" ] || return 1
	# By number: BusyBox cuts a long name short.
	# shellcheck disable=SC2046 # words: mode, links, owner
	set -- $(ls -ldn "$1")
	[ "$3" = "$(id -u "$NAME" 2>/dev/null)" ]
}

close_folder() {
	settle "$ETC" "root:$NAME" 1770
	if [ -e "$ETC/$NAME.conf" ] || [ -L "$ETC/$NAME.conf" ]; then
		chown -h root:root "$ETC/$NAME.conf"
		# From here on it is nobody else's to replace.
		[ -L "$ETC/$NAME.conf" ] || chmod go-w "$ETC/$NAME.conf"
	fi
}

# Nothing that is there already is written to.
write_settings() {
	(
		set -C
		cat "$1" >"$2"
	)
}

# In one step, so that whoever looks finds the old file or the new one.
place() {
	mkdir -p "${2%/*}"
	rm -f "$2.$$"
	# Not through a link.
	(set -C && cat "$1" >"$2.$$") || {
		rm -f "$2.$$"
		die "$2 cannot be written"
	}
	chmod "$3" "$2.$$"
	mv -f "$2.$$" "$2"
}

# install FILE PLACE MODE: a file of this program, that it may replace. In /etc one that somebody has changed is kept.
install() {
	wanted=$work/files/$(echo "$2" | tr / :)
	case $2 in
		"$prefix"/*) wanted=$1 ;;
		*) sed "s|/usr/bin/$NAME|$PROGRAM|g; s|/usr/share/$NAME|$prefix/share/$NAME|g" "$1" >"$wanted" ;;
	esac
	to=$2
	if [ -f "$to" ] && ! cmp -s "$wanted" "$to"; then
		case $to in
			/etc/*)
				before=$(listed "$to")
				if [ "$before" != "$(sum "$to")" ]; then
					[ $pass = act ] || [ -f "$to.new" ] || echo "  ($to was changed here, and stays; the new one is put beside it)"
					to=$to.new
				fi
				;;
		esac
	fi
	echo "$(sum "$wanted")  $2" >>"$work/installed"
	[ "$to" = "$2" ] || echo "$(sum "$wanted")  $to" >>"$work/installed"
	cmp -s "$wanted" "$to" && return
	case $2 in
		"$PROGRAM") new_program=yes ;;
		*.service | /etc/init.d/* | /etc/sv/*) new_service=yes ;;
	esac
	verb='write'
	[ ! -e "$to" ] || verb='replace'
	step "$verb $to" place "$wanted" "$to" "$3"
}

install_files() {
	[ -z "$asleep" ] || [ $pass = act ] ||
		echo "  ($asleep is this system's, and does not run: to prepare the system for it, give --init $asleep --no-start, and enable $NAME)"
	is_group || step "add the group $NAME" add_group
	is_user || step "add the user $NAME, without shell or home" add_user
	install "$from/$NAME" "$PROGRAM" 0755
	install "$from/man/$NAME.1" "$prefix/share/man/man1/$NAME.1" 0644
	install "$from/man/$NAME.conf.5" "$prefix/share/man/man5/$NAME.conf.5" 0644
	install "$from/LICENSE" "$prefix/share/doc/$NAME/LICENSE" 0644
	install "$from/copyright" "$prefix/share/doc/$NAME/copyright" 0644
	install "$from/completions/$NAME.bash-completion" "$prefix/share/bash-completion/completions/$NAME" 0644
	install "$from/completions/$NAME.zsh-completion" "$prefix/share/zsh/site-functions/_$NAME" 0644
	install "$from/completions/$NAME.fish-completion" "$prefix/share/fish/vendor_completions.d/$NAME.fish" 0644
	# What takes the settings away takes this, too, and nobody else does.
	[ -d "$ETC" ] || step "make $ETC for the group $NAME" make_folder "$ETC" "root:$NAME" 1770
	! is_loose "$ETC" || step "give $ETC and the settings to root, and let the group $NAME write in that folder" close_folder
	if [ -d "$ETC" ] && [ ! -x "$ETC" ]; then
		echo "  (what is missing in $ETC, root alone can see)"
	else
		[ -d "$ETC/tunnels" ] || step "make $ETC/tunnels" make_folder "$ETC/tunnels" "root:$NAME" 0750
		[ -e "$ETC/$NAME.conf" ] ||
			step "write $ETC/$NAME.conf, the settings to begin with" write_settings "$from/$NAME.conf" "$ETC/$NAME.conf"
	fi
	[ -d "$LOG" ] || step "make $LOG for the user $NAME" make_folder "$LOG" "$NAME:$NAME" 0750
	case $init in
		openrc | runit) install "$from/stand-in" "$STAND_IN" 0755 ;;
	esac
	case $init in
		systemd)
			for one in "$NAME" "$NAME-tunnel@" "$NAME-tunnels"; do
				install "$from/systemd/$one.service" "/etc/systemd/system/$one.service" 0644
			done
			;;
		openrc)
			for one in "$NAME" "$NAME-tunnels"; do
				install "$from/openrc/$one" "/etc/init.d/$one" 0755
			done
			;;
		runit)
			for one in "$from/runit/$NAME"/* "$from/runit/$NAME-tunnels"/*; do
				install "$one" "/etc/sv/${one#"$from"/runit/}" 0755
			done
			install "$from/runit/init.d/$NAME-tunnels" "/etc/init.d/$NAME-tunnels" 0755
			;;
		sysvinit)
			install "$from/sysvinit/$NAME" "/etc/init.d/$NAME" 0755
			sed "s|^\(# Provides: *\)$NAME\$|\1$NAME-tunnels|; s|^\(# Short-Description: .*\)|\1: tunnels|" \
				"$from/sysvinit/$NAME" >"$work/tunnels"
			install "$work/tunnels" "/etc/init.d/$NAME-tunnels" 0755
			;;
	esac
}

# Where runit looks for what it is to run.
service_folder() {
	for one in /var/service /etc/service /service; do
		if [ -d $one ]; then
			echo $one
			return
		fi
	done
	echo /etc/service
}

# Whether the service $1 is started at boot.
is_enabled() {
	case $init in
		systemd) systemctl is-enabled --quiet "$1" 2>/dev/null ;;
		openrc) [ -e "/etc/runlevels/default/$1" ] ;;
		runit) [ -e "$(service_folder)/$1" ] ;;
		sysvinit)
			for link in /etc/rc[2S].d/S[0-9][0-9]"$1" /etc/rc.d/S[0-9][0-9]"$1" /etc/init.d/S[0-9][0-9]"$1"; do
				[ ! -L "$link" ] || return 0
			done
			return 1
			;;
	esac
}

enable() {
	case $init in
		systemd) systemctl enable --quiet "$1" ;;
		openrc) rc-update -q add "$1" default ;;
		runit)
			mkdir -p "$(service_folder)"
			ln -s "/etc/sv/$1" "$(service_folder)/"
			;;
		sysvinit)
			if has update-rc.d; then
				update-rc.d "$1" defaults >/dev/null
			elif has chkconfig; then
				chkconfig --add "$1"
			elif [ -d /etc/rc2.d ]; then
				for level in 2 3 4 5; do
					[ ! -d /etc/rc$level.d ] || ln -sf "../init.d/$1" "/etc/rc$level.d/S90$1"
				done
				for level in 0 1 6; do
					[ ! -d /etc/rc$level.d ] || ln -sf "../init.d/$1" "/etc/rc$level.d/K10$1"
				done
			else
				# Where BusyBox's init runs all of /etc/init.d/S*, as Buildroot has it.
				ln -sf "$1" "/etc/init.d/S90$1"
			fi
			;;
	esac
}

disable() {
	case $init in
		systemd) systemctl disable --quiet "$1" ;;
		openrc) rc-update -q delete "$1" default ;;
		runit) rm -f "$(service_folder)/$1" ;;
		sysvinit)
			if has update-rc.d; then
				# It takes links away once their script is gone, unless it is told to.
				update-rc.d -f "$1" remove >/dev/null
			elif has chkconfig; then
				chkconfig --del "$1"
			fi
			rm -f /etc/rc[0-6S].d/[SK][0-9][0-9]"$1" /etc/init.d/S90"$1"
			;;
	esac
}

# service VERB NAME
service() {
	case $init in
		systemd) systemctl "$1" "$2" ;;
		openrc) rc-service "$2" "$1" ;;
		runit)
			case $1 in
				stop) sv -w 60 stop "$2" ;;
				start)
					# runsvdir looks every five seconds.
					tries=10
					while [ $tries -gt 0 ] && ! sv status "$2" >/dev/null 2>&1; do
						sleep 1
						tries=$((tries - 1))
					done
					sv start "$2"
					;;
				*) sv -w 60 "$1" "$2" ;;
			esac
			;;
		sysvinit) "/etc/init.d/$2" "$1" ;;
	esac
}

is_serving() { "$PROGRAM" status >/dev/null 2>&1; }
has_tunnels_running() { "$PROGRAM" tunnels status >/dev/null 2>&1; }

# Where nothing serves just now, OpenRC may start it again and again, and would do so without its script, too.
is_to_stop() { is_serving || { [ "$init" = openrc ] && rc-service "$1" status >/dev/null 2>&1; }; }

# Tunnels that have units of their own, which is systemd's alone.
own_units() {
	[ "$init" != systemd ] ||
		systemctl list-units "$@" --plain --no-legend "$NAME-tunnel@*.service" 2>/dev/null | cut -d ' ' -f 1
}

has_tunnel_files() {
	for one in "$ETC/tunnels"/*.conf; do
		[ ! -f "$one" ] || return 0
	done
	return 1
}

start_tunnels() {
	service start $NAME-tunnels || echo "install.sh: the tunnels of $ETC/tunnels did not start, for the reason above" >&2
}

start_service() {
	tries=20
	service start $NAME || tries=0
	while ! is_serving; do
		[ $tries -gt 0 ] || die "$NAME is installed, but did not start; \`$PROGRAM check\` says why, or its log in $LOG"
		tries=$((tries - 1))
		sleep 1
	done
}

# Whether the daemon is the child of a supervisor that would start a second one in the place of one that has been left:
# OpenRC or runit with a service of before. That is not so of process 1, which has it after an upgrade, and of the stand-in.
is_watched() {
	[ "$init" != systemd ] || return 1
	lock=/run/$NAME/$NAME.lock
	[ -f "$lock" ] && [ ! -L "$lock" ] || return 1
	process=$(head -c 10 "$lock" | tr -cd 0-9)
	parent=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/${process:-0}/status" 2>/dev/null) || return 1
	[ "${parent:-1}" -gt 1 ] && [ "$(cat "/proc/$parent/comm")" != stand-in ]
}

# The new program takes the running one's place without a cut where that works (iofog-connector help upgrade).
renew() {
	code=0
	faults=$({ "$PROGRAM" check --user $NAME >/dev/null; } 2>&1) || code=$?
	if [ $code -eq 2 ]; then
		echo "install.sh: the program of before keeps running, because the new one would not start with these settings:" >&2
		echo "$faults" >&2
		echo "install.sh: correct that, and then: $PROGRAM upgrade" >&2
		return
	fi
	if ! is_watched; then
		why=$({ "$PROGRAM" upgrade >/dev/null; } 2>&1) && return
		echo "install.sh: the new program did not take the place, so that it is restarted: ${why#"$NAME: "}" >&2
	fi
	service restart $NAME || die "$NAME is installed, but did not start again; \`$PROGRAM check\` says why"
}

# Tunnels that work are not stopped for a file with a fault, and whatever becomes of them, the rest is done.
renew_tunnels() {
	faults=$({ "$PROGRAM" check --user $NAME >/dev/null; } 2>&1 | grep -v 'warning: ' | grep -F "$ETC/tunnels/") || faults=
	if [ -n "$faults" ]; then
		echo "install.sh: the tunnels of before keep running, because not all would start again:" >&2
		echo "$faults" >&2
		echo "install.sh: correct that, and restart them then" >&2
		return
	fi
	case $init in
		systemd) systemctl try-restart "$NAME-tunnels.service" "$NAME-tunnel@*.service" ;;
		*) service restart $NAME-tunnels ;;
	esac || echo "install.sh: the tunnels were not restarted" >&2
}

services() {
	[ "$init" != none ] || return 0
	if [ "$init" = systemd ] && [ -n "${new_service-}" ]; then
		step "have systemd read its units" systemctl daemon-reload
	fi
	if [ -n "${new_program-}" ] && { has_tunnels_running || [ -n "$(own_units --state=active)" ]; }; then
		step "restart the tunnels" renew_tunnels
	fi
	if is_serving; then
		[ -z "${new_program-}" ] || step "have the new program take the running one's place" renew
	elif [ -n "$start" ] && [ -z "$was_installed" ]; then
		# What an operator has stopped or disabled since is left so.
		is_enabled $NAME || step "have $init start $NAME at boot" enable $NAME
		# The unit of systemd is enabled by the first `tunnel install`.
		[ "$init" = systemd ] || is_enabled $NAME-tunnels || step "have $init start $NAME-tunnels at boot" enable $NAME-tunnels
		step "start $NAME" start_service
		# Of before, where it was taken away and is back. runit starts what it finds enabled.
		case $init in
			openrc | sysvinit) ! has_tunnel_files || step "start the tunnels of $ETC/tunnels" start_tunnels ;;
		esac
	fi
}

write_list() {
	mkdir -p "${LIST%/*}"
	cp "$work/installed" "$LIST.$$"
	mv -f "$LIST.$$" "$LIST"
	rm -f "$LIST.part"
}

all_steps() {
	: >"$work/installed"
	new_program=
	new_service=
	install_files
	services
	if ! cmp -s "$work/installed" "$LIST"; then
		step "write $LIST, the list of these files" write_list
	fi
}

# Takes away what the list names.
removal() {
	if [ "$init" != none ]; then
		for one in $NAME-tunnels $NAME; do
			has_unit "$one" || continue
			case $one in
				*-tunnels) ! has_tunnels_running || step "stop $one" service stop "$one" ;;
				*) ! is_to_stop "$one" || step "stop $one" service stop "$one" ;;
			esac
			! is_enabled "$one" || step "have $init start $one no more" disable "$one"
		done
		for one in $(own_units --all); do
			step "stop $one" systemctl disable --quiet --now "$one"
		done
	fi
	while read -r was file; do
		[ -e "$file" ] || continue
		case $file in
			/etc/*)
				if [ "$(sum "$file")" != "$was" ]; then
					[ $pass = act ] || echo "  ($file was changed here, and stays)"
					continue
				fi
				;;
		esac
		step "remove $file" rm -f "$file"
	done <"$work/listed"
	step "remove $LIST" forget
	[ "$init" != systemd ] || step "have systemd read its units" systemctl daemon-reload
}

has_unit() {
	case $init in
		systemd) [ -f "/etc/systemd/system/$1.service" ] ;;
		runit) [ -d "/etc/sv/$1" ] ;;
		*) [ -f "/etc/init.d/$1" ] ;;
	esac
}

# The folders that only these files were in go with them.
forget() {
	rm -f "$LIST" "$LIST.part"
	while read -r _ file; do
		case $file in
			/etc/sv/* | */share/*) rmdir "${file%/*}" 2>/dev/null || true ;;
		esac
	done <"$work/listed"
	# What runit has written there goes, too.
	for one in "/etc/sv/$NAME" "/etc/sv/$NAME-tunnels"; do
		[ -f "$one/run" ] || rm -rf "$one"
	done
	rmdir "${LIST%/*}" 2>/dev/null || true
}

find_init
check_prefix
if [ -n "$uninstall" ]; then
	list=$LIST
	[ -f "$list" ] || list=$LIST.part
	if [ ! -f "$list" ]; then
		echo "There is nothing to do: $LIST, which says what install.sh has put here, does not exist."
		exit
	fi
	[ "$(id -u)" = 0 ] || [ -n "$dry" ] || die "this needs root: run it with sudo, or as root"
	cp "$list" "$work/listed"
	work_to_do=removal
	end="$NAME is removed. $ETC, $LOG and the user $NAME are still there."
	subject="$NAME"
else
	find_files
	check_machine
	was_installed=
	[ ! -f "$LIST" ] || { [ "$init" != none ] && ! has_unit $NAME; } || was_installed=yes
	work_to_do=all_steps
	end="$NAME $version is installed."
	subject="$NAME $version for $for_processor into $prefix, with services for $init"
	# A release of before is as well signed as this one.
	before=$("$PROGRAM" version 2>/dev/null | sed -n '1s/.* //p')
	[ -z "$before" ] || [ "$before" = "$version" ] || subject="$subject, in the place of $before,"
fi

$work_to_do >"$work/plan"
if ! grep -q '^  [^(]' "$work/plan"; then
	cat "$work/plan"
	echo "There is nothing to do: $subject is installed already."
	exit
fi
if [ -n "$uninstall" ]; then
	echo "To remove $subject this will be done:"
else
	echo "To install $subject this will be done:"
fi
cat "$work/plan"
[ -z "$dry" ] || exit 0
echo "Doing it:"
pass=act
$work_to_do
pass=over
echo "$end"
case $uninstall:$PATH: in
	yes:* | *:"$prefix/bin":*) ;;
	*) echo "$prefix/bin is not in PATH: add it there, or type $PROGRAM." ;;
esac
if [ -z "$uninstall${was_installed-}" ] && [ "$init" = systemd ] && has_tunnel_files && ! has_tunnels_running; then
	echo "The tunnels of $ETC/tunnels do not run: systemctl enable --now $NAME-tunnels starts them."
fi
if [ -z "$uninstall" ] && [ "$init" = none ]; then
	echo "Nothing here starts it; by hand, as the user $NAME: $PROGRAM start"
elif [ -z "$uninstall" ] && [ "$init" = sysvinit ] && ! can_give_ports setpriv; then
	echo "It can open no port below 1024: that needs setpriv of util-linux."
fi
