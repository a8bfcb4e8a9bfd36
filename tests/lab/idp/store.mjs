// What the identity provider remembers: oidc-provider's adapter over one Map, kept across a restart.
//
// oidc-provider's own memory adapter forgets beyond 1000 entries and at every restart. A real provider does neither, and
// tests of an outage need the refresh tokens to be good again when it is over.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

export class Store {
  #entries = new Map(); // "Model:id" -> payload
  #members = new Map(); // grant id -> Set of keys that die with it
  #aliases = new Map(); // "uid:..." or "userCode:..." -> id

  load(file) {
    if (!existsSync(file)) return;
    for (const [key, payload] of JSON.parse(readFileSync(file, 'utf8'))) this.put(key, payload);
  }

  save(file) {
    writeFileSync(file, JSON.stringify([...this.#entries]), { mode: 0o600 });
  }

  put(key, payload) {
    const id = key.slice(key.indexOf(':') + 1);
    this.#entries.set(key, payload);
    if (payload.uid) this.#aliases.set(`uid:${payload.uid}`, id);
    if (payload.userCode) this.#aliases.set(`userCode:${payload.userCode}`, id);
    if (payload.grantId) {
      if (!this.#members.has(payload.grantId)) this.#members.set(payload.grantId, new Set());
      this.#members.get(payload.grantId).add(key);
    }
  }

  get(key) {
    return this.#entries.get(key);
  }

  alias(name) {
    return this.#aliases.get(name);
  }

  remove(key) {
    const payload = this.#entries.get(key);
    if (!payload) return;
    this.#entries.delete(key);
    this.#members.get(payload.grantId)?.delete(key);
    if (payload.uid) this.#aliases.delete(`uid:${payload.uid}`);
    if (payload.userCode) this.#aliases.delete(`userCode:${payload.userCode}`);
  }

  removeGrantMembers(grantId) {
    for (const key of [...(this.#members.get(grantId) ?? [])]) this.remove(key);
    this.#members.delete(grantId);
  }

  // Grants, sessions and every kind of token name their owner in accountId.
  removeAccount(accountId) {
    for (const [key, payload] of [...this.#entries]) {
      if (payload.accountId === accountId) this.remove(key);
    }
  }

  adapter = (model) => ({
    upsert: async (id, payload) => this.put(`${model}:${id}`, payload),
    find: async (id) => this.get(`${model}:${id}`),
    findByUid: async (uid) => this.get(`${model}:${this.alias(`uid:${uid}`)}`),
    findByUserCode: async (code) => this.get(`${model}:${this.alias(`userCode:${code}`)}`),
    consume: async (id) => {
      this.get(`${model}:${id}`).consumed = Math.floor(Date.now() / 1000);
    },
    destroy: async (id) => this.remove(`${model}:${id}`),
    revokeByGrantId: async (grantId) => this.removeGrantMembers(grantId),
  });
}
