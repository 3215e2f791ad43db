# dm2 for vcpkg, as an overlay port: vcpkg install dm2 --overlay-ports=packaging/vcpkg
# The source is the repository that the port is in.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT "c" IN_LIST FEATURES)
  set(VCPKG_BUILD_TYPE release)  # headers, and at most a program: a debug build would be the same, or not wanted
endif()
vcpkg_check_features(OUT_FEATURE_OPTIONS features FEATURES c DM2_C tools DM2_EXAMPLES)
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS ${features} -DDM2_TESTS=OFF -DDM2_BENCH=OFF -DDM2_NATIVE=OFF -DDM2_FETCH=OFF -DDM2_MPI=OFF -DDM2_INSTALL=ON)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH lib/cmake/dm2)
vcpkg_fixup_pkgconfig()
if("tools" IN_LIST FEATURES)
  vcpkg_copy_tools(TOOL_NAMES dm2 AUTO_CLEAN)
endif()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include" "${CURRENT_PACKAGES_DIR}/debug/share"
                    "${CURRENT_PACKAGES_DIR}/share/doc")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
