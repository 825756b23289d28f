"""Alembic's entry: runs the migrations on the connection that `db.schema` hands over."""

from alembic import context

from shopsync_pipeline.db.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema="public",
    transactional_ddl=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
