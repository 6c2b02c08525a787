# SPDX-License-Identifier: Apache-2.0
"""Commands, one file each."""
