# SPDX-License-Identifier: Apache-2.0
"""Features of the official model classes, and the scripts that made them."""
