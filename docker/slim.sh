#!/bin/sh
# Take out of a site-packages folder what serving never reads. Prints the size before and after.
#     slim.sh SITE_PACKAGES
set -eu
cd "$1"
du -sm . | sed 's/\s.*/ MB before/'

# Headers, C++ test programs, protoc and CMake files are for building extensions against torch.
rm -rf torch/include torch/share torch/test
# torch looks for its shared-memory manager when it is imported.
find torch/bin -mindepth 1 -maxdepth 1 ! -name torch_shm_manager -exec rm -rf {} +
rm -f torch/lib/libtorchbind_test.so torch/lib/libjitbackend_test.so torch/lib/libbackend_with_compiler.so

# Test suites that libraries ship with themselves.
for library in numpy sympy networkx mpmath functorch; do
    [ ! -d "$library" ] || find "$library" -type d -name tests -prune -exec rm -rf {} +
done

# The symbol tables of the libraries serve debuggers and static linking; dynamic linking has its own (.dynsym).
find torch httptools -name '*.so*' -type f -exec strip --strip-unneeded {} +

du -sm . | sed 's/\s.*/ MB after/'
