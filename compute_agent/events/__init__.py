# SPDX-License-Identifier: Apache-2.0
"""Telling the world: the publisher of the outbox, and what is told without being stored."""
