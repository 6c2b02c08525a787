# SPDX-License-Identifier: Apache-2.0
"""The command for people, ``compute-agentctl``: every verb and question from a shell.

Plain threads, no greenthreads. What can be done without the broker (help, schemas, checking arguments)
is done without importing the messaging library, so that the command answers at once.
"""
