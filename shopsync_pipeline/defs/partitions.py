"""The partitions: one per organization, its key the organizationId, never deleted."""

from dagster import DynamicPartitionsDefinition

organizations = DynamicPartitionsDefinition(name="organizations")
