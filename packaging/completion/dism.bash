# SPDX-License-Identifier: Apache-2.0
# Options are the same in any case; ":" and "=", which part words for bash, come before a value.
_dism() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command
  local commands='/Mount-Image /Commit-Image /Unmount-Image /Remount-Image /Get-ImageInfo /Get-MountedImageInfo
    /Cleanup-Mountpoints /Mount-Wim /Commit-Wim /Unmount-Wim /Remount-Wim /Get-WimInfo /Get-MountedWimInfo /Cleanup-Wim'
  local options='/Quiet /LogPath: /LogLevel: /ScratchDir: /Format: /English /NoRestart /Get-Help /?'
  if [[ $word == [:=] ]]; then
    before=$word word=
  fi
  if [[ $before == [:=] ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
    return
  fi
  for command in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case ${command,,} in
      /mount-*) options+=' /ImageFile: /Index: /Name: /MountDir: /ReadOnly /Optimize /CheckIntegrity /SupportEa' ;;
      /commit-*) options+=' /MountDir: /CheckIntegrity /Append' ;;
      /unmount-*) options+=' /MountDir: /Commit /Discard /CheckIntegrity /Append' ;;
      /remount-*) options+=' /MountDir:' ;;
      /get-imageinfo | /get-wiminfo) options+=' /ImageFile: /Index: /Name:' ;;
      /get-mounted* | /cleanup-*) ;;
      *) continue ;;
    esac
    commands=
  done
  mapfile -t COMPREPLY < <(shopt -s nocasematch && for option in $commands $options; do
    [[ $option != "$word"* ]] || echo "$option"
  done)
  [[ ${#COMPREPLY[@]} != 1 || $COMPREPLY != *: ]] || compopt -o nospace
}
complete -F _dism dism
