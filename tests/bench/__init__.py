# SPDX-License-Identifier: Apache-2.0
"""How fast it is, measured against the floor: the least that anything doing the same must do.

Ours and the floor take turns in one run, with equal concurrency, on the same broker and hypervisor, so
that a slow or busy machine changes the figures and not the ratios. Run it with `make bench`.
"""
