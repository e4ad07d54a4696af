# SPDX-License-Identifier: Apache-2.0
"""What models cost, and how runs compare."""
