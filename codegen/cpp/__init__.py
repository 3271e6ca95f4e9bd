"""The CPU target: header-free C++ with the vector extensions of g++ and clang."""
