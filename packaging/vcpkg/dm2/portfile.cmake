# dm2 for vcpkg, as an overlay port: vcpkg install dm2 --overlay-ports=packaging/vcpkg
# The source is this repository: two folders up from the port.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

vcpkg_check_features(OUT_FEATURE_OPTIONS features FEATURES c DM2_C tools DM2_EXAMPLES)
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS ${features} -DDM2_TESTS=OFF -DDM2_BENCH=OFF -DDM2_NATIVE=OFF -DDM2_FETCH=OFF -DDM2_MPI=OFF -DDM2_INSTALL=ON)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH lib/cmake/dm2)
vcpkg_fixup_pkgconfig()
if(DM2_EXAMPLES IN_LIST FEATURES OR "tools" IN_LIST FEATURES)
  vcpkg_copy_tools(TOOL_NAMES dm2 AUTO_CLEAN)
endif()
if(NOT "c" IN_LIST FEATURES)
  set(VCPKG_BUILD_TYPE release)  # headers alone: a second build would be the same
endif()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include" "${CURRENT_PACKAGES_DIR}/debug/share"
                    "${CURRENT_PACKAGES_DIR}/share/doc")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
