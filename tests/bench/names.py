# SPDX-License-Identifier: Apache-2.0
"""What the benches and the processes of the floor have to agree on."""

FLOOR_TOPIC = "floor_events"
#: Environment variables of the processes of the floor.
TEMPLATE = "FLOOR_TEMPLATE"
MODULES = "FLOOR_MODULES"
URI = "FLOOR_URI"
