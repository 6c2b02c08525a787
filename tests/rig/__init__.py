# SPDX-License-Identifier: Apache-2.0
"""The test rig: the real parts (broker, hypervisor, agent, guests), private to whoever starts them.

Each part is a plain class and a context manager, usable outside pytest. See README.md beside this file.
"""
