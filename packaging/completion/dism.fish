# SPDX-License-Identifier: Apache-2.0
# Options are the same in any case; a value follows ":" or "=".
set -l commands /Mount-Image /Commit-Image /Unmount-Image /Remount-Image /Get-ImageInfo /Get-MountedImageInfo \
    /Cleanup-Mountpoints /Mount-Wim /Commit-Wim /Unmount-Wim /Remount-Wim /Get-WimInfo /Get-MountedWimInfo /Cleanup-Wim
complete -c dism -n "not string match -qir '^/(mount|commit|unmount|remount|get|cleanup)-' -- (commandline -opc)" -a "$commands"
complete -c dism -a '/Quiet /LogPath: /LogLevel: /ScratchDir: /Format: /English /NoRestart /Get-Help /?'
complete -c dism -n "string match -qir '^/mount-' -- (commandline -opc)" \
    -a '/ImageFile: /Index: /Name: /MountDir: /ReadOnly /Optimize /CheckIntegrity /SupportEa'
complete -c dism -n "string match -qir '^/commit-' -- (commandline -opc)" -a '/MountDir: /CheckIntegrity /Append'
complete -c dism -n "string match -qir '^/unmount-' -- (commandline -opc)" \
    -a '/MountDir: /Commit /Discard /CheckIntegrity /Append'
complete -c dism -n "string match -qir '^/remount-' -- (commandline -opc)" -a /MountDir:
complete -c dism -n "string match -qir '^/get-(image|wim)info' -- (commandline -opc)" -a '/ImageFile: /Index: /Name:'
