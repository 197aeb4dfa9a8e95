# SPDX-License-Identifier: Apache-2.0
set -l commands mount commit unmount remount list info watch cleanup status help
complete -c dismctl -n "not __fish_seen_subcommand_from $commands" -f -a "$commands"
complete -c dismctl -l json -d 'Output for programs'
complete -c dismctl -l address -x -d 'The service\'s socket'
complete -c dismctl -n '__fish_seen_subcommand_from mount' -s i -l index -x
complete -c dismctl -n '__fish_seen_subcommand_from mount' -s n -l name -x
complete -c dismctl -n '__fish_seen_subcommand_from mount' -s r -l read-only
complete -c dismctl -n '__fish_seen_subcommand_from mount unmount commit' -l check-integrity
complete -c dismctl -n '__fish_seen_subcommand_from unmount' -l discard
complete -c dismctl -n '__fish_seen_subcommand_from unmount' -l commit
complete -c dismctl -n '__fish_seen_subcommand_from unmount commit' -l append
complete -c dismctl -n '__fish_seen_subcommand_from cleanup' -l force
