# What `make install` puts where: libraries, headers, the program with its manual page and shell completions (which it
# writes itself), a pkg-config file and a CMake package.
install(TARGETS cambium_shared EXPORT cambium-shared)
install(TARGETS cambium_static EXPORT cambium-static)
install(FILES include/cambium.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/cambium DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# ---- for CMake and pkg-config -------------------------------------------------------------------------------------------

set(package_directory ${CMAKE_INSTALL_LIBDIR}/cmake/cambium)
foreach(kind shared static)
  install(EXPORT cambium-${kind} NAMESPACE cambium:: DESTINATION ${package_directory})
endforeach()
configure_package_config_file(cmake/cambium-config.cmake.in cambium-config.cmake INSTALL_DESTINATION ${package_directory})
write_basic_package_version_file(cambium-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/cambium-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/cambium-config-version.cmake
  cmake/CambiumDependencies.cmake DESTINATION ${package_directory})

file(RELATIVE_PATH prefix_from_pkgconfig /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/cambium.pc.in cambium.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/cambium.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# ---- the program --------------------------------------------------------------------------------------------------------

if(NOT TARGET cambium)
  return()
endif()
install(TARGETS cambium)
if(CMAKE_CROSSCOMPILING OR CAMBIUM_SANITIZE)
  return() # the pages are written by the program, which has to run here for that
endif()

# Adds `file`, which is what `cambium ARGUMENTS...` prints, and installs it in `directory`.
set(pages)
function(add_page file directory)
  set(path ${CMAKE_CURRENT_BINARY_DIR}/pages/${file})
  add_custom_command(OUTPUT ${path}
    COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:cambium> "-DARGUMENTS=${ARGN}" -DOUTPUT=${path}
      -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/write_page.cmake
    DEPENDS cambium cmake/write_page.cmake VERBATIM)
  install(FILES ${path} DESTINATION ${directory})
  set(pages ${pages} ${path} PARENT_SCOPE)
endfunction()
add_page(cambium.1 ${CMAKE_INSTALL_MANDIR}/man1 help --man)
add_page(cambium ${CMAKE_INSTALL_DATADIR}/bash-completion/completions completion bash)
add_page(_cambium ${CMAKE_INSTALL_DATADIR}/zsh/site-functions completion zsh)
add_page(cambium.fish ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d completion fish)
add_custom_target(pages ALL DEPENDS ${pages})
