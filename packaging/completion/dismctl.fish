# SPDX-License-Identifier: Apache-2.0
set -l commands mount commit unmount remount list info watch cleanup status help
complete -c dismctl -n "not __fish_seen_subcommand_from $commands" -f -a "$commands"
complete -c dismctl -l json -d 'Output for programs'
complete -c dismctl -l address -x -d 'The service\'s socket'
complete -c dismctl -l help -d 'Help of the command'
complete -c dismctl -n '__fish_seen_subcommand_from mount' -s i -l index -x -d 'The image, from 1'
complete -c dismctl -n '__fish_seen_subcommand_from mount' -s n -l name -x -d 'The image, by name'
complete -c dismctl -n '__fish_seen_subcommand_from mount' -l partition -x -d 'Of a disk, from 1'
complete -c dismctl -n '__fish_seen_subcommand_from mount' -s r -l read-only
complete -c dismctl -n '__fish_seen_subcommand_from mount' -l allow-other -d 'Let others look inside'
complete -c dismctl -n '__fish_seen_subcommand_from mount' -l scratch-directory -r -d 'Where to keep edits'
complete -c dismctl -n '__fish_seen_subcommand_from mount' -l unix-data -d 'Keep modes and owners'
complete -c dismctl -n '__fish_seen_subcommand_from mount unmount commit' -l check-integrity
complete -c dismctl -n '__fish_seen_subcommand_from unmount' -l discard
complete -c dismctl -n '__fish_seen_subcommand_from unmount' -l commit
complete -c dismctl -n '__fish_seen_subcommand_from unmount commit' -l append -d 'As a new image'
complete -c dismctl -n '__fish_seen_subcommand_from unmount commit' -l rebuild -d 'Write the file anew'
complete -c dismctl -n '__fish_seen_subcommand_from unmount commit' -l recompress -x -a 'xpress lzx lzms'
complete -c dismctl -n '__fish_seen_subcommand_from cleanup' -l force
