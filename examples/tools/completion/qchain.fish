# SPDX-License-Identifier: MIT
# fish: completion of qchain, qchain-VERB and qchain-fuse, which know by themselves what can stand where. Only a
# program that PATH finds is asked: none is run because its name was begun to be typed.

function __qchain_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    set -l typed (string replace -r '^~/' "$HOME/" -- $words[1])
    set -l program (command -s -- (string replace -r '.*/' '' -- $typed)); or return
    string match -q '*/*' -- $typed; and test (realpath -- $typed) != (realpath -- $program); and return
    set -l reply ($program --complete $words[2..-1] $last 2>/dev/null)
    set -q reply[1]; or return
    set -q reply[2]; and printf '%s\n' $reply[1..-2]
    # Of --index=FILE and if=FILE the file is to be completed.
    set -l lead (string match -r '^(?:--[a-z-]+|[io]f)=' -- $last)
    set -l path (string sub -s (math 1 + (string length -- "$lead")) -- $last)
    switch $reply[-1]
        case ':files'
            printf "$lead%s\n" (__fish_complete_path $path)
        case ':dirs'
            printf "$lead%s\n" (__fish_complete_directories $path)
    end
end

for name in qchain (string replace -r '\.fish$' '' (status basename))
    complete -c $name -f -a '(__qchain_complete)'
end
