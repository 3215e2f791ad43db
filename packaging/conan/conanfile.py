"""dm2 for Conan 2: conan create packaging/conan --build=missing

-o dm2/*:system_libs=True takes Eigen, nlohmann-json, libjpeg and libpng from the system, and nothing from a remote.
"""

import os

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy

required_conan_version = ">=2.0"


class Dm2Conan(ConanFile):
    name = "dm2"
    version = "0.1.0"
    description = "DeMansia 2, a vision classifier, as a header-only C++20 library"
    license = "Apache-2.0"
    topics = ("image-classification", "mamba", "header-only", "cuda")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"c_library": [True, False], "system_libs": [True, False]}
    default_options = {"c_library": False, "system_libs": False}

    def export_sources(self):
        root = os.path.join(self.recipe_folder, "..", "..")
        for name in ("CMakeLists.txt", "LICENSE", "README.md", "CHANGELOG.md"):
            copy(self, name, root, self.export_sources_folder)
        for folder in ("bindings", "cmake", "docs", "examples", "include"):
            copy(self, "*", os.path.join(root, folder), os.path.join(self.export_sources_folder, folder))

    def configure(self):
        if self.options.c_library:
            self.package_type = "shared-library"

    def requirements(self):
        if self.options.system_libs:
            return
        self.requires("eigen/3.4.0", transitive_headers=True)
        self.requires("nlohmann_json/3.11.3", transitive_headers=True)
        self.requires("libjpeg-turbo/[>=2.1 <4]", transitive_headers=True)
        self.requires("libpng/[>=1.6 <2]", transitive_headers=True)
        if self.options.c_library:
            self.requires("cli11/2.5.0", visible=False)

    def layout(self):
        cmake_layout(self)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        if not self.info.options.c_library:
            self.info.settings.clear()

    def generate(self):
        if not self.options.system_libs:
            CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables.update({
            "DM2_TESTS": False, "DM2_BENCH": False, "DM2_EXAMPLES": False, "DM2_NATIVE": False, "DM2_FETCH": False,
            "DM2_MPI": False, "DM2_C": bool(self.options.c_library), "DM2_INSTALL": True})
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()

    def package_info(self):
        # dm2's own config file says more than Conan's could: definitions, OpenMP, dm2::c
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs.append(os.path.join("lib", "cmake", "dm2"))
        self.cpp_info.libs = ["dm2"] if self.options.c_library else []
        if not self.options.c_library:
            self.cpp_info.libdirs = []
            self.cpp_info.bindirs = []
