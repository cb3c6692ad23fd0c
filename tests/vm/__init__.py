"""Throw-away virtual machines with stock Debian kernels, for tests that need a real one.

``python -m tests.vm --kernel 6.1 -- COMMAND`` runs one command in one machine; ``python -m tests.vm.lane`` is
the kernel lane. The guest is emulated by qemu (TCG, no KVM needed) and sees the host's root directory
read-only over 9p below a tmpfs overlay: whatever it writes is lost. It has no network but ``lo``.
"""
