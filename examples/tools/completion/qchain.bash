# SPDX-License-Identifier: MIT
# bash: completion of qchain, qchain-VERB and qchain-fuse, which know by themselves what can stand where. Only a
# program that PATH finds is asked: none is run because its name was begun to be typed.

_qchain()
{
    local line=${COMP_LINE:0:COMP_POINT} typed=${1/#\~/$HOME}
    local -a words reply names
    local program last cut kind i

    program=$(type -P -- "${typed##*/}") || return
    [[ $typed != */* || $typed -ef $program ]] || return
    # Words as they are typed: bash would part them at '=' and ':'. A backslash is the user's.
    # shellcheck disable=SC2162
    read -a words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=('')
    mapfile -t reply < <("$program" --complete "${words[@]:1}" 2>/dev/null)
    [[ ${#reply[@]} -gt 0 ]] || return
    kind=${reply[-1]}
    unset 'reply[-1]'
    last=${words[-1]}
    # What stands before such a sign stays.
    cut=${last%"${last##*[=:]}"}
    COMPREPLY=("${reply[@]%%$'\t'*}")
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    # Names out of images are inserted as they stand here: as one word, of which the shell takes nothing for its own.
    # Within quotes that the user has opened that would not hold.
    [[ $last != *[\'\"]* ]] || COMPREPLY=()
    for i in "${!COMPREPLY[@]}"; do
        printf -v "COMPREPLY[i]" %q "${COMPREPLY[i]}"
    done
    case $kind in
    :files) mapfile -t names < <(compgen -f -- "${last#"$cut"}") ;;
    :dirs) mapfile -t names < <(compgen -d -- "${last#"$cut"}") ;;
    esac
    if [[ ${#names[@]} -gt 0 ]]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY+=("${names[@]}")
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}

# shellcheck disable=SC2046 # a name a command
complete -F _qchain qchain $(compgen -c qchain-)
