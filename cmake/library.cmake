# The target dm2::dm2 (headers, and what they need), and dm2::stb, which it needs where libjpeg or libpng is missing.
add_library(dm2 INTERFACE)
add_library(dm2::dm2 ALIAS dm2)
target_compile_features(dm2 INTERFACE cxx_std_20)
target_include_directories(dm2 INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                         $<INSTALL_INTERFACE:include>)
target_link_libraries(dm2 INTERFACE Eigen3::Eigen nlohmann_json::nlohmann_json Threads::Threads)
if(DM2_HAS_OPENMP)
  target_link_libraries(dm2 INTERFACE OpenMP::OpenMP_CXX)
endif()
if(DM2_HAS_JPEG)
  target_link_libraries(dm2 INTERFACE JPEG::JPEG)
  target_compile_definitions(dm2 INTERFACE DM2_WITH_JPEG=1)
endif()
if(DM2_HAS_PNG)
  target_link_libraries(dm2 INTERFACE PNG::PNG)
  target_compile_definitions(dm2 INTERFACE DM2_WITH_PNG=1)
endif()

# stb_image's implementation, in a library of its own: it must be compiled exactly once.
if(DM2_HAS_STB OR (DM2_TESTS AND DM2_STB_INCLUDE_DIR))
  add_library(dm2_stb STATIC ${PROJECT_SOURCE_DIR}/cmake/stb_image.cpp)
  add_library(dm2::stb ALIAS dm2_stb)
  set_target_properties(dm2_stb PROPERTIES EXPORT_NAME stb POSITION_INDEPENDENT_CODE ON)
  target_compile_features(dm2_stb PRIVATE cxx_std_20)
  # dm2's headers include stb_image.h: from where it was found, and after installation from a copy.
  target_include_directories(dm2_stb SYSTEM PUBLIC $<BUILD_INTERFACE:${DM2_STB_INCLUDE_DIR}>
                                                   $<INSTALL_INTERFACE:include/dm2/third_party>)
endif()
if(DM2_HAS_STB)
  target_link_libraries(dm2 INTERFACE dm2_stb)
endif()
