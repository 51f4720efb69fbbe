#!/bin/sh
# completions.sh BINARY SHELL: prints the completions for bash, zsh or fish, made from BINARY's help texts.
set -eu
binary=$1 shell=$2
applets=$("$binary" --help | sed -n '/^Applets:/,/^$/s/^  \([a-z]*\) .*/\1/p')
[ -n "$applets" ] || {
    printf 'completions.sh: the help of "%s" lists no applets\ngive the path of a knockknock binary\n' "$binary" >&2
    exit 1
}

# Joins the lines of its input.
words() {
    paste -sd ' ' -
}

# alias_of APPLET: prints the name of its link to the binary.
alias_of() {
    case $1 in knock) echo knockknock ;; *) echo "knockknock-$1" ;; esac
}

aliases() {
    for applet in $applets; do alias_of "$applet"; done | words
}

summary() {
    "$binary" --help | sed -n "s/^  $1  *//p"
}

# options APPLET: prints its long options, one a line with its description, which the help may have wrapped.
options() {
    "$binary" "$1" --help | awk '
        function flush() { if (option != "") print option }
        on && /^  -/ { flush(); sub(/^ *(-[^-], )?/, ""); sub(/, help/, ""); sub(/ +/, " "); option = $0; next }
        on { sub(/^ +/, " "); option = option $0 }
        /^Options:/ { on = 1 }
        END { flush() }'
}

for_bash() {
    cat <<'END'
_knockknock() {
  local words applet=${1##*/}
  if [[ $applet == knockknock && $COMP_CWORD -gt 1 && ${COMP_WORDS[1]} != -* ]]; then applet=${COMP_WORDS[1]}; fi
  case $applet in
END
    for applet in $applets; do
        echo "    $(alias_of "$applet")|$applet) words=\"$(options "$applet" | cut -d ' ' -f 1 | words)\" ;;"
    done
    cat <<END
  esac
  if [[ \$applet == knockknock && \$COMP_CWORD -eq 1 ]]; then words="\$words $(echo "$applets" | words)"; fi
  mapfile -t COMPREPLY < <(compgen -W "\$words" -- "\$2")
}
complete -o default -F _knockknock $(aliases)
END
}

for_zsh() {
    quoted="s/'/'\\\\''/g; s/[]:[]/ /g"
    echo "#compdef $(aliases)"
    cat <<'END'
local applet=${words[1]:t}
local -a applets=(
END
    for applet in $applets; do echo "    '$applet:$(summary "$applet" | sed "$quoted")'"; done
    cat <<'END'
)
if [[ $applet == knockknock && $CURRENT -eq 2 && ${words[2]} != -* ]]; then _describe applet applets; fi
if [[ $applet == knockknock && $CURRENT -gt 2 && ${words[2]} != -* ]]; then applet=${words[2]}; fi
case $applet in
END
    for applet in $applets; do
        echo "    $(alias_of "$applet")|$applet) _arguments \\"
        options "$applet" | sed "$quoted; s/^\\([^ ]*\\) \\(.*\\)/        '\\1[\\2]' \\\\/"
        echo "        '*:: :_default' ;;"
    done
    echo 'esac'
}

for_fish() {
    quoted="s/'/\\\\'/g"
    for applet in $applets; do
        echo "complete -c knockknock -n __fish_use_subcommand -a $applet -d '$(summary "$applet" | sed "$quoted")'"
        options "$applet" | sed "$quoted" | while read -r option what; do
            echo "complete -c knockknock -n '__fish_seen_subcommand_from $applet' -l ${option#--} -d '$what'"
            echo "complete -c $(alias_of "$applet") -l ${option#--} -d '$what'"
        done
    done
}

case $shell in
bash | zsh | fish) "for_$shell" ;;
*)
    printf 'completions.sh: unknown shell: "%s"\none of: bash, zsh, fish\n' "$shell" >&2
    exit 2
    ;;
esac
