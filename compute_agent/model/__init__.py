# SPDX-License-Identifier: Apache-2.0
"""Frozen types that every room shares. Imports nothing else of the agent."""
