# What `cmake --install` puts beside the targets, which are installed where they are
# declared. Components: Tools (to compile and run models) and Development.
include(CMakePackageConfigHelpers)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/moec ${PROJECT_BINARY_DIR}/include/moec
  DESTINATION include COMPONENT Development
  FILES_MATCHING PATTERN "*.h" PATTERN "*.td" PATTERN "*.inc" PATTERN CMakeFiles EXCLUDE)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/moec-c DESTINATION include COMPONENT Tools)

set(package_dir lib/cmake/moec)
install(EXPORT MoecTools NAMESPACE Moec:: DESTINATION ${package_dir} COMPONENT Tools)
install(EXPORT MoecLibraries NAMESPACE Moec:: DESTINATION ${package_dir} COMPONENT Development)
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/MoecConfig.cmake.in ${PROJECT_BINARY_DIR}/MoecConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/MoecConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  ${PROJECT_BINARY_DIR}/MoecConfig.cmake ${PROJECT_BINARY_DIR}/MoecConfigVersion.cmake
  ${PROJECT_SOURCE_DIR}/cmake/MoecAddModel.cmake ${PROJECT_SOURCE_DIR}/cmake/MoecLLVM.cmake
  DESTINATION ${package_dir} COMPONENT Tools)
