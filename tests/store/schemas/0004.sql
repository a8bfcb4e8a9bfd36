BEGIN TRANSACTION;
CREATE TABLE access_grant (
	account_id INTEGER NOT NULL, 
	grantee TEXT NOT NULL, 
	person_id INTEGER, 
	created DATETIME NOT NULL, 
	created_by TEXT NOT NULL, 
	CONSTRAINT pk_access_grant PRIMARY KEY (account_id, grantee), 
	CONSTRAINT fk_access_grant_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE, 
	CONSTRAINT fk_access_grant_person_id FOREIGN KEY(person_id) REFERENCES person (id) ON DELETE CASCADE
);
INSERT INTO "access_grant" VALUES(2,'ann@x.test',1,'2026-11-23 12:00:00.123456','cli:root');
INSERT INTO "access_grant" VALUES(2,'https://login.example.com#eve-9',NULL,'2026-11-23 12:00:00.123456','cli:root');
CREATE TABLE account (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	email TEXT NOT NULL, 
	upstream TEXT NOT NULL, 
	upstream_user TEXT NOT NULL, 
	state VARCHAR(32) NOT NULL, 
	sealed BOOLEAN NOT NULL, 
	token_state VARCHAR(32) NOT NULL, 
	token_since DATETIME NOT NULL, 
	token_detail TEXT NOT NULL, 
	created DATETIME NOT NULL, 
	created_by TEXT NOT NULL
);
INSERT INTO "account" VALUES(1,'ann@x.test','mail','ann@x.test','active',0,'fresh','2026-11-23 12:00:00.123456','','2026-11-23 12:00:00.123456','cli:root');
INSERT INTO "account" VALUES(2,'bob@x.test','mail','bob','active',0,'none','2026-11-23 12:00:00.123456','','2026-11-23 12:00:00.123456','cli:root');
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE audit (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at DATETIME NOT NULL, 
	event VARCHAR(32) NOT NULL, 
	actor TEXT NOT NULL, 
	node TEXT NOT NULL, 
	worker INTEGER, 
	account TEXT NOT NULL, 
	app_password TEXT NOT NULL, 
	name TEXT NOT NULL, 
	protocol TEXT NOT NULL, 
	address TEXT NOT NULL, 
	cause TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	count INTEGER NOT NULL, 
	until DATETIME, 
	untold BOOLEAN NOT NULL
);
INSERT INTO "audit" VALUES(1,'2026-11-23 12:00:00.123456','created','cli:root','mail1',NULL,'ann@x.test','id1','scanner','','','','imap smtp',1,NULL,0);
INSERT INTO "audit" VALUES(2,'2026-11-23 12:00:00.123456','refused','client','mail1',0,'ann@x.test','','','imap','192.0.2.7','wrong_password','',3,'2026-11-23 12:00:00.123456',0);
CREATE TABLE binding (
	account_id INTEGER NOT NULL, 
	person_id INTEGER NOT NULL, 
	created DATETIME NOT NULL, 
	CONSTRAINT pk_binding PRIMARY KEY (account_id), 
	CONSTRAINT fk_binding_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE, 
	CONSTRAINT fk_binding_person_id FOREIGN KEY(person_id) REFERENCES person (id) ON DELETE CASCADE
);
INSERT INTO "binding" VALUES(1,1,'2026-11-23 12:00:00.123456');
CREATE TABLE credential (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	public_id TEXT NOT NULL, 
	account_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	protocols TEXT NOT NULL, 
	networks TEXT NOT NULL, 
	state VARCHAR(32) NOT NULL, 
	expires DATETIME, 
	generation INTEGER NOT NULL, 
	created DATETIME NOT NULL, 
	created_by TEXT NOT NULL, 
	last_at DATETIME, 
	last_address TEXT, 
	last_protocol TEXT, 
	last_client TEXT, 
	CONSTRAINT uq_credential_public_id UNIQUE (public_id), 
	CONSTRAINT fk_credential_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
INSERT INTO "credential" VALUES(1,'id1',1,'scanner','smtp','10.0.0.0/8','active','2027-02-21 12:00:00.123456',1,'2026-11-23 12:00:00.123456','cli:root','2026-11-23 12:00:00.123456','192.0.2.1','smtp','scanner 1.0');
INSERT INTO "credential" VALUES(2,'id2',1,'phone','imap
smtp','','revoked',NULL,2,'2026-11-23 12:00:00.123456','cli:root',NULL,NULL,NULL,NULL);
CREATE TABLE deposit (
	row_id TEXT NOT NULL, 
	account_id INTEGER NOT NULL, 
	purpose VARCHAR(32) NOT NULL, 
	ciphertext BLOB NOT NULL, 
	valid_until DATETIME, 
	created DATETIME NOT NULL, 
	CONSTRAINT pk_deposit PRIMARY KEY (row_id), 
	CONSTRAINT uq_deposit_account_id_purpose UNIQUE (account_id, purpose), 
	CONSTRAINT fk_deposit_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
INSERT INTO "deposit" VALUES('row1',1,'refresh_token',X'7365616C6564',NULL,'2026-11-23 12:00:00.123456');
INSERT INTO "deposit" VALUES('row2',1,'access_token',X'7365616C656420746F6F','2026-11-23 13:00:00.123456','2026-11-23 12:00:00.123456');
CREATE TABLE learned (
	upstream TEXT NOT NULL, 
	protocol TEXT NOT NULL, 
	extensions TEXT NOT NULL, 
	learned_at DATETIME NOT NULL, 
	CONSTRAINT pk_learned PRIMARY KEY (upstream, protocol)
);
INSERT INTO "learned" VALUES('mail','smtp','SIZE 1000000
PIPELINING','2026-11-23 12:00:00.123456');
CREATE TABLE lease (
	account_id INTEGER NOT NULL, 
	owner TEXT, 
	fence BIGINT NOT NULL, 
	until DATETIME, 
	CONSTRAINT pk_lease PRIMARY KEY (account_id), 
	CONSTRAINT fk_lease_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
INSERT INTO "lease" VALUES(1,'w1',2,'2026-11-23 12:00:30.123456');
INSERT INTO "lease" VALUES(2,NULL,0,NULL);
CREATE TABLE login_name (
	name TEXT NOT NULL, 
	account_id INTEGER NOT NULL, 
	CONSTRAINT pk_login_name PRIMARY KEY (name), 
	CONSTRAINT fk_login_name_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
INSERT INTO "login_name" VALUES('ann@x.test',1);
INSERT INTO "login_name" VALUES('ann',1);
INSERT INTO "login_name" VALUES('bob@x.test',2);
CREATE TABLE person (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	issuer TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	address TEXT NOT NULL, 
	display TEXT NOT NULL, 
	created DATETIME NOT NULL, 
	last_seen DATETIME NOT NULL, 
	CONSTRAINT uq_person_issuer_tenant_subject UNIQUE (issuer, tenant, subject)
);
INSERT INTO "person" VALUES(1,'https://login.example.com','','ann-1','ann@x.test','ann@x.test','2026-11-23 12:00:00.123456','2026-11-23 12:00:00.123456');
CREATE TABLE recipient (
	key_id TEXT NOT NULL, 
	public BLOB NOT NULL, 
	created DATETIME NOT NULL, 
	secret_id INTEGER, 
	sealed_private BLOB, 
	CONSTRAINT pk_recipient PRIMARY KEY (key_id), 
	CONSTRAINT uq_recipient_secret_id UNIQUE (secret_id), 
	CONSTRAINT ck_recipient_private_of_secret CHECK ((secret_id IS NULL) = (sealed_private IS NULL)), 
	CONSTRAINT fk_recipient_secret_id FOREIGN KEY(secret_id) REFERENCES secret (id) ON DELETE CASCADE
);
INSERT INTO "recipient" VALUES('m1',X'0101010101010101010101010101010101010101010101010101010101010101','2026-11-23 12:00:00.123456',NULL,NULL);
CREATE TABLE revision (
	id INTEGER NOT NULL, 
	value BIGINT NOT NULL, 
	CONSTRAINT pk_revision PRIMARY KEY (id), 
	CONSTRAINT ck_revision_one_row CHECK (id = 1)
);
INSERT INTO "revision" VALUES(1,2);
CREATE TABLE secret (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	account_id INTEGER NOT NULL, 
	credential_id INTEGER NOT NULL, 
	selector TEXT NOT NULL, 
	phc TEXT NOT NULL, 
	valid_until DATETIME, 
	created DATETIME NOT NULL, 
	CONSTRAINT uq_secret_account_id_selector UNIQUE (account_id, selector), 
	CONSTRAINT fk_secret_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE, 
	CONSTRAINT fk_secret_credential_id FOREIGN KEY(credential_id) REFERENCES credential (id) ON DELETE CASCADE
);
INSERT INTO "secret" VALUES(1,1,1,'abcd','$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA',NULL,'2026-11-23 12:00:00.123456');
INSERT INTO "secret" VALUES(2,1,2,'efgh','$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaB',NULL,'2026-11-23 12:00:00.123456');
CREATE TABLE session (
	id TEXT NOT NULL, 
	worker_id TEXT NOT NULL, 
	account_id INTEGER NOT NULL, 
	email TEXT NOT NULL, 
	public_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	protocol TEXT NOT NULL, 
	upstream TEXT NOT NULL, 
	upstream_user TEXT NOT NULL, 
	address TEXT NOT NULL, 
	client TEXT NOT NULL, 
	since DATETIME NOT NULL, 
	is_kicked BOOLEAN NOT NULL, 
	CONSTRAINT pk_session PRIMARY KEY (id), 
	CONSTRAINT fk_session_worker_id FOREIGN KEY(worker_id) REFERENCES worker (id) ON DELETE CASCADE
);
INSERT INTO "session" VALUES('s1','w1',1,'ann@x.test','id1','scanner','imap','mail','ann@x.test','192.0.2.7','scanner 1.0','2026-11-23 12:00:00.123456',0);
CREATE TABLE sighting (
	credential_id INTEGER NOT NULL, 
	address TEXT NOT NULL, 
	network TEXT NOT NULL, 
	last_at DATETIME NOT NULL, 
	CONSTRAINT pk_sighting PRIMARY KEY (credential_id, address), 
	CONSTRAINT fk_sighting_credential_id FOREIGN KEY(credential_id) REFERENCES credential (id) ON DELETE CASCADE
);
INSERT INTO "sighting" VALUES(1,'192.0.2.7','192.0.2.0/24','2026-11-23 12:00:00.123456');
CREATE TABLE spent (
	token_hash TEXT NOT NULL, 
	until DATETIME NOT NULL, 
	CONSTRAINT pk_spent PRIMARY KEY (token_hash)
);
INSERT INTO "spent" VALUES('hash2','2026-11-23 12:10:00.000000');
CREATE TABLE told (
	subject TEXT NOT NULL, 
	account_id INTEGER, 
	state TEXT NOT NULL, 
	since DATETIME NOT NULL, 
	CONSTRAINT pk_told PRIMARY KEY (subject), 
	CONSTRAINT uq_told_account_id UNIQUE (account_id), 
	CONSTRAINT fk_told_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
INSERT INTO "told" VALUES('account:1',1,'needs_consent','2026-11-23 12:00:00.000000');
CREATE TABLE web_session (
	id_hash TEXT NOT NULL, 
	person_id INTEGER NOT NULL, 
	is_admin BOOLEAN NOT NULL, 
	created DATETIME NOT NULL, 
	last_seen DATETIME NOT NULL, 
	expires DATETIME NOT NULL, 
	auth_time DATETIME NOT NULL, 
	amr TEXT NOT NULL, 
	acr TEXT NOT NULL, 
	address TEXT NOT NULL, 
	held_for INTEGER, 
	held BLOB, 
	CONSTRAINT pk_web_session PRIMARY KEY (id_hash), 
	CONSTRAINT fk_web_session_person_id FOREIGN KEY(person_id) REFERENCES person (id) ON DELETE CASCADE, 
	CONSTRAINT fk_web_session_held_for FOREIGN KEY(held_for) REFERENCES account (id) ON DELETE SET NULL
);
INSERT INTO "web_session" VALUES('hash1',1,0,'2026-11-23 12:00:00.123456','2026-11-23 12:00:00.123456','2026-11-23 20:00:00.000000','2026-11-23 12:00:00.123456','pwd
mfa','mfa','192.0.2.7',1,X'68656C64');
CREATE TABLE worker (
	id TEXT NOT NULL, 
	node TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	until DATETIME NOT NULL, 
	CONSTRAINT pk_worker PRIMARY KEY (id)
);
INSERT INTO "worker" VALUES('w1','mail1',0,'2026-11-23 12:00:00.123456');
CREATE TABLE wrap (
	row_id TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	blob BLOB NOT NULL, 
	CONSTRAINT pk_wrap PRIMARY KEY (row_id, key_id), 
	CONSTRAINT fk_wrap_row_id FOREIGN KEY(row_id) REFERENCES deposit (row_id) ON DELETE CASCADE, 
	CONSTRAINT fk_wrap_key_id FOREIGN KEY(key_id) REFERENCES recipient (key_id) ON DELETE CASCADE
);
INSERT INTO "wrap" VALUES('row1','m1',X'77726170706564');
INSERT INTO "wrap" VALUES('row2','m1',X'7772617070656420746F6F');
CREATE INDEX ix_login_name_account_id ON login_name (account_id);
CREATE INDEX ix_credential_account_id ON credential (account_id);
CREATE UNIQUE INDEX uq_credential_live_name ON credential (account_id, name) WHERE state != 'revoked';
CREATE INDEX ix_secret_credential_id ON secret (credential_id);
CREATE INDEX ix_wrap_key_id ON wrap (key_id);
CREATE INDEX ix_audit_at ON audit (at);
CREATE INDEX ix_audit_account_id ON audit (account, id);
CREATE INDEX ix_audit_untold ON audit (id) WHERE untold;
CREATE INDEX ix_session_worker_id ON session (worker_id);
CREATE INDEX ix_session_account_id ON session (account_id);
CREATE INDEX ix_session_mailbox ON session (upstream, upstream_user, protocol);
CREATE INDEX ix_binding_person_id ON binding (person_id);
CREATE INDEX ix_access_grant_person_id ON access_grant (person_id);
CREATE INDEX ix_web_session_person_id ON web_session (person_id);
CREATE INDEX ix_web_session_expires ON web_session (expires);
CREATE INDEX ix_spent_until ON spent (until);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('account',2);
INSERT INTO "sqlite_sequence" VALUES('credential',2);
INSERT INTO "sqlite_sequence" VALUES('secret',2);
INSERT INTO "sqlite_sequence" VALUES('audit',2);
INSERT INTO "sqlite_sequence" VALUES('person',1);
COMMIT;
