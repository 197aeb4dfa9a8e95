# SPDX-License-Identifier: Apache-2.0
_dismctl() {
  local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]}
  local -A options=(
    [mount]='--index --name --partition --read-only --check-integrity --allow-other --scratch-directory --unix-data'
    [unmount]='--discard --commit --append --check-integrity --rebuild --recompress'
    [commit]='--append --check-integrity --rebuild --recompress'
    [cleanup]='--force'
  )
  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W 'mount commit unmount remount list info watch cleanup status help' -- "$word")
  elif [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "${options[$command]:-} --json --address --help" -- "$word")
  else
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
  fi
}
complete -F _dismctl dismctl
