# SPDX-License-Identifier: Apache-2.0
"""Packet filters of guests, as libvirt's network filters (nwfilter)."""
