# SPDX-License-Identifier: Apache-2.0
"""Data: loaders, mappers, registration, preparation, the embedded quick-start data set."""
